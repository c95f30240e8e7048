"""Which tensors of a part a checkpoint keeps: one answer for writing, for loading, and for noticing that they changed."""

import torch
from torch import Tensor, nn

from vlmzoo_registry.compat.peft import BaseTunerLayer


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and saved buffers of a module by name, each once: a tied tensor has the name it is reached by first.

    Adapters are not among them, and what they are on has the name that it had before.
    """
    saved = set(module.state_dict())
    buffers = {name: tensor for name, tensor in module.named_buffers() if name in saved}
    tensors = dict(module.named_parameters()) | buffers
    adapted = {name for name, child in module.named_modules() if isinstance(child, BaseTunerLayer)}
    return {own: tensor for name, tensor in tensors.items() if (own := _own_name(name, adapted)) is not None}


def layout(module: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """The shape and type of each of these."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in own_tensors(module).items()}


def _own_name(name: str, adapted: set[str]) -> str | None:
    """The name of a tensor without its layer's adapter around it; None for the adapter's own."""
    steps = name.split(".")
    for length in range(len(steps) if adapted else 0):
        layer = ".".join(steps[:length])
        if layer in adapted:
            return ".".join([*steps[:length], *steps[length + 1 :]]) if steps[length] == "base_layer" else None
    return name
