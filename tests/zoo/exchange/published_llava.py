"""Small published LLaVA models at random, with processors, for the tests of exchange."""

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer

IMAGE = BYTE_TOKENS
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


@torch.no_grad()
def shaken(model: Any, seed: int = 0) -> Any:
    """Weights far from their start, so that no tensor can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        spread = 0.08 if parameter.ndim > 1 else 0.5
        parameter += torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * spread
    return model.eval()


def llava(
    layers: int | list[int] = -2,
    strategy: str = "default",
    *,
    siglip: bool = False,
    text: Any = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> LlavaForConditionalGeneration:
    """A random LLaVA."""
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**VISION) if siglip else CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**TEXT) if text is None else text,
        image_token_index=IMAGE,
        vision_feature_layer=layers,
        vision_feature_select_strategy=strategy,
        **options,
    )
    return shaken(LlavaForConditionalGeneration(config).to(dtype))


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the image token."""
    made = byte_tokenizer(["<image>"])
    assert made.convert_tokens_to_ids("<image>") == IMAGE
    return made


def llava_processor(strategy: str = "default", class_tokens: int = 1) -> LlavaProcessor:
    """The processor of these models."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=class_tokens,
    )
