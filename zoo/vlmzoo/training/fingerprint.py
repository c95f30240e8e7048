"""A number that changes when a bit of a tensor does: how the audit sees movement without keeping a copy."""

from functools import lru_cache

import torch
from torch import Tensor

_CHUNK = 2**20  # words at a time: a tensor of any size takes 16 MB more, no copy of itself
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_BASE = 0x9E3779B97F4A7C15  # odd, so that chunks keep their weight however many follow


def fingerprint(tensor: Tensor) -> int:
    """A 64-bit number of a tensor's values and their places; -0.0 and 0.0 differ, and NaN equals itself.

    A plain sum of the words would not do: AdamW's first step adds to some what it takes from others.
    """
    words = tensor.detach().contiguous().reshape(-1).view(_WORDS[tensor.element_size()])
    weights = _weights(tensor.device)
    total = 0
    for chunk in words.split(_CHUNK):
        total = total * _BASE + int((chunk.long() * weights[: len(chunk)]).sum())
    return total % 2**64


@lru_cache(maxsize=2)
def _weights(device: torch.device) -> Tensor:
    """Odd numbers at random, the same in every process: a change of one word is never lost, one of several by chance alone."""
    drawn = torch.randint(-(2**62), 2**62, (_CHUNK,), generator=torch.Generator().manual_seed(0))
    return (2 * drawn + 1).to(device)
