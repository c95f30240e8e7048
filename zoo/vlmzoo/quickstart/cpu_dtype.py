"""Chooses the type of the quickstart's language model by what this machine multiplies faster.

Its weights are bfloat16. A CPU without instructions for that is several times as slow with it as with float32: the one that was
tried 3 to 10 times, for one product.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional

from vlmzoo.training.run_folder import kept_recipe

Dtype = Literal["bfloat16", "float32"]

_TOKENS, _WIDTH, _HIDDEN = 256, 576, 1536  # a feed-forward of the language model
_TRIES = 5


def matmul_seconds(dtype: torch.dtype) -> float:
    """Measure one matrix product [256, 576] x [576, 1536] on the CPU: seconds, the shortest of five."""
    tokens, weight = torch.ones(_TOKENS, _WIDTH, dtype=dtype), torch.ones(_HIDDEN, _WIDTH, dtype=dtype)
    seconds = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        functional.linear(tokens, weight)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def fastest_dtype(measure: Callable[[torch.dtype], float] = matmul_seconds) -> Dtype:
    """The faster of bfloat16 and float32 on this machine; bfloat16 on an accelerator."""
    if torch.accelerator.is_available():
        return "bfloat16"
    return "bfloat16" if measure(torch.bfloat16) <= measure(torch.float32) else "float32"


def kept_dtype(run: Path) -> Dtype | None:
    """The type in the recipe of a run that has begun, which goes on with it; None where none has, or its model has no such."""
    recipe = kept_recipe(run)
    dtype: Dtype | None = None if recipe is None else recipe["model"]["language"].get("dtype")
    return dtype
