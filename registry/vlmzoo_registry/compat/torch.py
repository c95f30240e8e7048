"""What vlmzoo needs of torch beyond its documented names; holds for 2.11 to 2.14."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as fx_config
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.adamw import adamw
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

__all__ = [
    "BATCH_NORM",
    "TorchDispatchMode",
    "adamw",
    "has_hooks",
    "is_truth_value",
    "nonzero_everywhere",
    "operation_schema",
    "share_children",
    "shut_down_workers",
]
# `adamw`: the functional form of AdamW, documented nowhere; since 1.9. Stays.
# `TorchDispatchMode`: in an underscored module, yet the one that torch's own notes name; since 1.13. Stays.

BATCH_NORM: type[nn.Module] = _BatchNorm
"""The base class of every batch norm; since 0.1. Stays."""


def operation_schema(operation: Any) -> Any:
    """The arguments, returns and aliases of an operation that a dispatch mode is handed (`_schema`, since 1.11). Stays."""
    return operation._schema


def is_truth_value(operation: Any, arguments: Sequence[Any]) -> bool:
    """Tell whether an operation asks a tensor without values for one truth value (`_local_scalar_dense`, since 1.0). Stays."""
    return operation is torch.ops.aten._local_scalar_dense.default and arguments[0].is_meta and arguments[0].dtype == torch.bool


@contextmanager
def nonzero_everywhere() -> Iterator[None]:
    """Let tensors without values be indexed by truth values that have none either: all of them count as true.

    A switch of torch's own (`meta_nonzero_assume_all_nonzero`, since 2.5); without it such an index raises. Stays.
    """
    before = fx_config.meta_nonzero_assume_all_nonzero
    fx_config.meta_nonzero_assume_all_nonzero = True
    try:
        yield
    finally:
        fx_config.meta_nonzero_assume_all_nonzero = before


def has_hooks(module: nn.Module) -> bool:
    """Tell whether calling a module runs hooks, its own or those on all modules (underscored, since 1.0 and 2.0). Stays."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own) or bool(torch.nn.modules.module._has_any_global_hook())


def share_children(shell: nn.Module, module: nn.Module) -> None:
    """Let `shell` have the same children as `module`: one mapping, so that what is put in one is in both.

    `_modules`, since 0.1. Stays.
    """
    shell._modules = module._modules


def shut_down_workers(batches: Iterator[Any]) -> None:
    """End the worker processes of a `DataLoader` whose iterator is still held (`_shutdown_workers`, since 0.2). Stays.

    torch does so when nobody holds the iterator any more, and the traceback of an error holds it.
    """
    if isinstance(batches, _MultiProcessingDataLoaderIter):
        batches._shutdown_workers()
