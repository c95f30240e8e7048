"""Small models and samples for the tests of objectives."""

from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import vlmzoo
from vlmzoo.config import load_choice
from vlmzoo.data import Collator
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import Objective, Sample, Template, Turn

BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 262,
    "max_position_embeddings": 128,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 270,
    "max_position_embeddings": 256,
}
MASKED_LM = {"name": "transformers/masked-lm", "config": BERT}
GLM = {"name": "transformers/causal-lm", "config": LLAMA, "prefix": "optional", "span_positions": 16}

PAIRS = [
    ("The rain came early.", "It filled the river to the stones."),
    ("A small boat lies there.", "Nobody crossed for a week, they say."),
    ("Its paint is red.", "It is old."),
]


def model(language: dict[str, Any], *, architecture: str = "unified", seed: int = 0) -> VLM:
    """A small model with a toy encoder and weights that are nowhere small."""
    connector = [{"name": "connectors/mlp"}]
    if architecture == "cross_attention":
        connector = [{"name": "connectors/cross-attention", "every": 1, "heads": 2, "head_width": 8}]
    built = vlmzoo.build(
        {
            "architecture": architecture,
            "vision": {"name": "toy/vision"},
            "connector": connector,
            "language": language,
            "template": "plain",
        }
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * (0.1 if parameter.ndim > 1 else 0.3)
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return built


def collator(built: VLM, objective: str, *, template: str = "plain", seed: int = 0, **options: Any) -> Collator:
    """What makes batches for this model under an objective."""
    tokenizer = built.processor.tokenizer
    return Collator(
        objective=load_choice("objective", {"name": objective, **options}).make(Objective).bind(tokenizer),
        template=load_choice("template", {"name": template}).make(Template).bind(tokenizer),
        tokenizer=tokenizer,
        image_token=built.processor.image_token,
        images=built.processor.images,
        max_length=256,
        key=(seed, "stage"),
    )


def samples(*, images: bool = False) -> list[Sample]:
    """Pairs of texts with labels, an image before the first where asked for."""
    colours = ("red", "green", "blue")
    return [
        Sample(
            id=str(number),
            turns=(Turn("user", ("<image>" if images else "") + first), Turn("assistant", second)),
            images=(partial(Image.new, "RGB", (32, 32), colours[number]),) if images else (),
            source=f"pairs.txt:{number}",
            label=number % 2,
        )
        for number, (first, second) in enumerate(PAIRS)
    ]


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """The gradients of all parameters, zeros where there is none."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in module.named_parameters()
    }
