"""Published classes with random weights, and zoo models with the same weights copied in."""

from typing import Any

import torch
from torch import nn

from vlmzoo.assemble import Parts, assemble, finish
from vlmzoo.config import load_model
from vlmzoo.model.vlm import VLM


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights far from their start: gates open, nothing small enough for an error to hide in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.08 if parameter.ndim > 1 else 0.5
            noise = torch.randn(parameter.shape, generator=generator) * spread
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)


def zoo_model(config: dict[str, Any], image_token_id: int, rows: int = 0) -> VLM:
    """A zoo model of this `model:` section, its embedding grown to `rows`, with no processor."""
    model = load_model({**config, "template": "plain"})
    parts: Parts = assemble(model)
    parts.language.resize(rows)
    return finish(model, parts, image_token_id)


def copy_by_order(target: nn.Module, source: nn.Module) -> None:
    """Copy parameters one to one, shapes checked: for modules that are built alike under other names."""
    ours, theirs = list(target.parameters()), list(source.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            mine.copy_(other)


def greedy(model: Any, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    """Twelve greedy ids after the prompt, with the cache."""
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0, **options)
    return out[:, inputs["input_ids"].shape[1] :]
