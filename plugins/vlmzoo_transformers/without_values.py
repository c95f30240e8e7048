"""Run a tower on meta tensors although it asks whether its attention mask masks anything: of whole images it masks nothing.

transformers leaves such a mask out; a tensor without values cannot tell, and would end the run.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class NothingMasked(TorchDispatchMode):
    """Reads every truth value that has no value as true."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer `bool(tensor)` for meta tensors; leave everything else to torch."""
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype is torch.bool:
            return True
        return func(*args, **(kwargs or {}))


def for_pixels(pixels: Tensor) -> AbstractContextManager[Any]:
    """What a tower runs in: `NothingMasked` where the pixels have no values, nothing special where they have."""
    return NothingMasked() if pixels.is_meta else nullcontext()
