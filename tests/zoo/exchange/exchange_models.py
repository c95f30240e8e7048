"""Small zoo models that a published class can express, and published ones with processors, for the tests of exchange."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import vlmzoo
from vlmzoo.model.vlm import VLM
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": BYTE_TOKENS + 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {"model_type": "llama", **TEXT}
SHUFFLE = {"name": "connectors/pixel-shuffle"}


def tower(model_type: str, **options: Any) -> dict[str, Any]:
    """A vision tower of transformers."""
    two_sided = {"image_size": [32, 32], "patch_size": [8, 8]} if model_type == "internvl_vision" else {}
    return {"name": "transformers/vision", "config": {"model_type": model_type, **TOWER, **two_sided}, **options}


def section(vision: dict[str, Any], *connector: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A `model:` section with a Llama."""
    language = {"name": "transformers/causal-lm", "config": LLAMA}
    own = {"architecture": "unified", "vision": vision, "connector": list(connector), "language": language}
    return {**own, "template": "vicuna_v1", **keys}


CLIP = tower("clip_vision_model", layers=[-2])
SECTIONS = {
    "Llava": section(CLIP, {"name": "connectors/mlp"}),
    "LlavaNext": section(CLIP, {"name": "connectors/mlp"}, layout={"name": "layouts/anyres"}),
    "InternVL": section(
        tower("internvl_vision"),
        SHUFFLE,
        {"name": "connectors/mlp", "input_norm": "layer"},
        layout={"name": "layouts/dynamic-tiles", "max_tiles": 4},
    ),
    "Idefics3": section(
        tower("idefics3_vision", final_norm=True, interpolation="lanczos"),
        SHUFFLE,
        {"name": "connectors/linear", "bias": False},
        layout={"name": "layouts/split", "longest_edge": 64},
    ),
    "Idefics2": section(
        tower("idefics2_vision", final_norm=True),
        {
            "name": "connectors/mlp",
            "gated": True,
            "activation": "silu",
            "bias": False,
            "hidden_width": TEXT["intermediate_size"],
        },
        {"name": "connectors/perceiver", "queries": 4, "depth": 2, "heads": 2, "key_value_heads": 1, "head_width": 8},
        layout={"name": "layouts/keep-ratio", "shortest_edge": 24, "longest_edge": 60, "patch": 8},
    ),
    "Blip2": section(
        tower("blip_2_vision_model", final_norm=True, prefix="keep"),
        {"name": "connectors/q-former", "width": 24, "heads": 4, "depth": 2, "queries": 4, "feedforward_width": 40},
        template="plain",
    ),
}
"""For each class that writes no token of its own a model that it can express, its processor too."""


@torch.no_grad()
def shaken(model: Any) -> Any:
    """Weights far from their start, so that no tensor can be left out unseen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.copy_(0.08 * noise if parameter.ndim > 1 else parameter + 0.5 * noise)
    return model.eval()


def zoo(name: str) -> VLM:
    """The zoo model of this class."""
    model: VLM = shaken(vlmzoo.build(SECTIONS[name]))
    return model


def llava(dtype: torch.dtype = torch.float32, **options: Any) -> LlavaForConditionalGeneration:
    """A published LLaVA at random."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER), text_config=LlamaConfig(**TEXT), image_token_index=BYTE_TOKENS, **options
    )
    return shaken(LlavaForConditionalGeneration(config).to(dtype))


def llava_processor(**options: Any) -> LlavaProcessor:
    """Its processor."""
    image_processor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, **options}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**image_processor),
        tokenizer=byte_tokenizer(["<image>"]),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def picture() -> Image.Image:
    """Coloured noise, wider than high, of no encoder's size."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 77, 3), dtype=np.uint8))
