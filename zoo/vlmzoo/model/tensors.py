"""Which tensors of a part a checkpoint keeps: one answer for writing, for loading, and for noticing that they changed."""

import torch
from torch import Tensor, nn


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and saved buffers of a module by name, each once: a tied tensor has the name it is reached by first."""
    saved = set(module.state_dict())
    buffers = {name: tensor for name, tensor in module.named_buffers() if name in saved}
    return dict(module.named_parameters()) | buffers


def layout(module: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """The shape and type of each of these."""
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in own_tensors(module).items()}
