"""Small models for the tests of the zoo: their `model:` sections, a batch for each, and weights that are nowhere 0."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import VLM

MLP = [{"name": "connectors/mlp"}]
CROSS = [{"name": "connectors/cross-attention", "every": 1, "heads": 2, "head_width": 8}]
TOY_VISION = {"name": "toy/vision"}
TOY_LANGUAGE = {"name": "toy/language"}

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 128,
}
GPT2 = {
    "model_type": "gpt2",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "vocab_size": 300,
}


def section(
    architecture: str = "unified",
    *,
    vision: dict[str, Any] = TOY_VISION,
    connector: list[dict[str, Any]] | None = None,
    language: dict[str, Any] = TOY_LANGUAGE,
) -> dict[str, Any]:
    """A `model:` section."""
    chain = (MLP if architecture == "unified" else CROSS) if connector is None else connector
    return {
        "architecture": architecture,
        "vision": vision,
        "connector": chain,
        "language": language,
        "template": "plain",
    }


def causal_lm(config: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A language model of transformers, at random."""
    return {"name": "transformers/causal-lm", "config": config, **options}


def picture(seed: int, side: int = 40) -> Image.Image:
    """Coloured noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def batch(model: VLM) -> dict[str, Tensor]:
    """Two prompts of different lengths, an image each."""
    return model.processor(text=["a red cat", "what"], images=[[picture(1)], [picture(2)]])


@torch.no_grad()
def shake(model: VLM, seed: int = 0) -> VLM:
    """Move every tensor that a checkpoint keeps away from where it starts: gates from 0, running means too."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in (tensor for part in model.parts.values() for tensor in own_tensors(part).values()):
        if tensor.is_floating_point():
            tensor += 0.02 * torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
    return model
