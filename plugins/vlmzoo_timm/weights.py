"""Weights from a safetensors file into a model, strictly: every tensor has its value, and no value is left over."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from vlmzoo_registry import CheckpointError

_SHOWN = 5


def load_weights(model: nn.Module, path: Path, *, dropped: frozenset[str]) -> None:
    """Load `path` into `model`; tensors of the parts that were left out of the model (`dropped`) may be in the file.

    Raises `CheckpointError` naming every kind of misfit: missing, unexpected, of another shape.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"`{path}` cannot be read as safetensors: {error}") from error
    wanted = model.state_dict()
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys() - dropped)
    reasons = []
    if missing:
        reasons.append(f"{len(missing)} of {len(wanted)} tensors are missing: {_some(missing)}")
    if unexpected:
        reasons.append(f"{len(unexpected)} of its {len(found)} tensors belong to no part of the model: {_some(unexpected)}")
    shapes = [
        f"`{name}` is {tuple(found[name].shape)} in the file and {tuple(wanted[name].shape)} in the model"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    reasons += shapes[:_SHOWN] + ([f"and {len(shapes) - _SHOWN} more of other shapes"] if len(shapes) > _SHOWN else [])
    if reasons:
        raise CheckpointError(f"`{path}` does not fit to the model", reasons)
    model.load_state_dict({name: found[name] for name in wanted})


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more
