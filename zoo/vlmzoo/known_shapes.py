"""What an operation makes of tensors without values is worked out once: a model of forty equal layers asks forty times.

torch works out shapes on the meta device in Python, about a millisecond each; a plan runs whole encoders and decoders there.
"""

from collections.abc import Hashable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from vlmzoo_registry.compat.torch import TorchDispatchMode, operation_schema


class KnownShapes(TorchDispatchMode):
    """Answers an operation on meta tensors like one it has seen before from what came out then.

    "Like" is: the same operation, the same shapes, strides and types of tensors, the same other arguments, the same default
    type. Only operations are answered that make new tensors, or that change their first argument in place and return it:
    others (views) say which tensors belong together. One that raised is not remembered, and raises again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[Hashable, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer from memory, or let torch answer and remember it."""
        kwargs = kwargs or {}
        effect = _effect(func)
        if effect is None:
            return func(*args, **kwargs)
        try:
            asked = (func, torch.get_default_dtype(), _key(args), _key(tuple(kwargs.items())))
        except _NotMeta:
            return func(*args, **kwargs)
        if asked not in self._seen:
            result = func(*args, **kwargs)
            with suppress(_NotMeta):
                self._seen[asked] = None if effect == "first argument" else _shape(result)
            return result
        return args[0] if effect == "first argument" else _made(self._seen[asked])


class _NotMeta(Exception):
    """Something has values, or is nothing that can be compared."""


@cache
def _effect(func: Any) -> Literal["new tensors", "first argument"] | None:
    """What an operation gives: new tensors, or its first argument, changed; None for views and whatever else."""
    schema = operation_schema(func)
    kinds = [str(returned.type) for returned in schema.returns]
    if not kinds or any(kind not in ("Tensor", "List[Tensor]") for kind in kinds) or torch.Tag.inplace_view in func.tags:
        return None
    aliases = [argument.alias_info for argument in schema.arguments]
    if not any(aliases) and not any(returned.alias_info for returned in schema.returns):
        return "new tensors"
    changed = [alias is not None and alias.is_write for alias in aliases]
    first_alone = changed[:1] == [True] and not any(aliases[1:])
    if first_alone and len(kinds) == 1 and func.overloadpacket.__name__.endswith("_"):
        return "first argument"
    return None


def _key(value: Any) -> Hashable:
    """What of an argument a shape can depend on."""
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, torch.nn.Parameter) or not value.is_meta:
            raise _NotMeta
        return "tensor", value.shape, value.stride(), value.dtype, value.is_conj(), value.is_neg()
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    if value is None or isinstance(value, bool | int | float | complex | str):
        return type(value), value
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return value
    raise _NotMeta


def _shape(result: Any) -> Any:
    """What of a result makes one like it; raises `_NotMeta` where that cannot be said."""
    if result is None:
        return None
    if isinstance(result, tuple | list):
        return type(result)(_shape(part) for part in result)
    if type(result) is not Tensor or not result.is_meta or result.is_conj() or result.is_neg():
        raise _NotMeta
    return _Like(result.shape, result.stride(), result.dtype)


class _Like:
    """A shape, strides and a type."""

    def __init__(self, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> None:
        self.shape, self.stride, self.dtype = tuple(shape), tuple(stride), dtype


def _made(like: Any) -> Any:
    """New tensors of these shapes."""
    if isinstance(like, _Like):
        return torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device="meta")
    return None if like is None else type(like)(_made(part) for part in like)
