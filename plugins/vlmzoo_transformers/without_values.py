"""Run a tower on meta tensors, although it asks whether its attention mask masks anything and keeps tensors for later.

transformers leaves a mask out that masks nothing (of whole images none does); a tensor without values cannot tell. And BEiT
keeps its position index in a cache of the class: made on the meta device it would be garbage in every later run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from vlmzoo_registry.compat.torch import TorchDispatchMode, is_truth_value, nonzero_everywhere


class NothingMasked(TorchDispatchMode):
    """Reads every truth value that has no value as true."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer `bool(tensor)` for meta tensors; leave everything else to torch."""
        if is_truth_value(func, args):
            return True
        return func(*args, **(kwargs or {}))


@contextmanager
def for_pixels(pixels: Tensor) -> Iterator[None]:
    """What a tower runs in: where the pixels have no values, nothing is masked, and what it makes itself has values."""
    if pixels.is_meta:
        with torch.device("cpu"), nonzero_everywhere(), NothingMasked():
            yield
    else:
        yield
