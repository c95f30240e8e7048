"""Under which names the same tensors stand in a published class and in a zoo model, and how they are copied: all, or none.

A tensor that nobody asked for and a tensor that nobody filled are errors that name it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmzoo_registry import CheckpointError


@dataclass(frozen=True)
class Names:
    """Beginnings of tensor names in the published class, each with what stands for it in the zoo model.

    A beginning is a module's name or a tensor's; of several that fit, the longest counts.
    """

    pairs: tuple[tuple[str, str], ...]

    def to_zoo(self, name: str) -> str | None:
        """The zoo's name of a published tensor; None where it has no place."""
        return _renamed(name, self.pairs)

    def to_published(self, name: str) -> str | None:
        """The published name of a tensor of the zoo; None where it has no place."""
        return _renamed(name, tuple((zoo, published) for published, zoo in self.pairs))


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    fitting = [(old, new) for old, new in pairs if name == old or name.startswith(f"{old}.")]
    if not fitting:
        return None
    old, new = max(fitting, key=lambda pair: len(pair[0]))
    return new + name[len(old) :]


def fill(target: Mapping[str, Tensor], source: Mapping[str, Tensor], rename: Callable[[str], str | None], *, what: str) -> None:
    """Copy every tensor of `source` into the tensor of `target` with the new name.

    Types are converted; shapes are not, but for leading axes of one, which some classes keep for the batch.

    Raises `CheckpointError` with every tensor that has no place, is not filled, or has another shape; nothing is copied then.
    """
    pairs, reasons, filled = [], [], set()
    for name, tensor in source.items():
        new = rename(name)
        if new is None or new not in target:
            reasons.append(f"`{name}` {list(tensor.shape)} has no place" + ("" if new is None else f" (no `{new}` there)"))
        elif _shape(tensor) != _shape(target[new]):
            reasons.append(f"`{name}` {list(tensor.shape)} does not fit into `{new}` {list(target[new].shape)}")
        else:
            pairs.append((target[new], tensor))
        filled.add(new)
    reasons += [f"`{name}` {list(tensor.shape)} is not filled" for name, tensor in target.items() if name not in filled]
    if reasons:
        raise CheckpointError(f"{what}: the tensors do not match", reasons)
    with torch.no_grad():
        for mine, other in pairs:
            mine.copy_(other.reshape(mine.shape))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape
