"""Attention in a sequence in which several rows stand one after the other: each row attends to itself alone.

transformers hands a mask of four axes to the attention function as it is. Here it is no mask but a small table of the rows, and
the function runs the model's own attention row by row: no [S, S] mask is made and no score between two rows is computed. As
the table is an argument of every layer, a layer that is recomputed in the backward pass sees the same rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from vlmzoo_registry.compat.transformers import attention_function, attention_implementation, mask_function

RowTable = Int[Tensor, "1 1 R 3"]
"""Each row's number of tokens, how many of the first see each other both ways, and the width of its window (0: none)."""

_CALLS: ContextVar[list[None] | None] = ContextVar("_CALLS", default=None)

_LAYERS = {"full_attention": False, "sliding_attention": True}
"""The kinds of attention layers that a table can describe, and whether they see a window."""


def own_attention(model: PreTrainedModel) -> bool:
    """Whether the model runs attention by torch or by its own code, which knows nothing of rows; others tell them apart."""
    return attention_implementation(model.config) in ("sdpa", "eager", *map(_name, ("sdpa", "eager")))


def attend_row_by_row(model: PreTrainedModel) -> None:
    """Let a model with `own_attention` understand a table of rows; with a mask it does what it did."""
    base = attention_implementation(model.config)
    if base not in ("sdpa", "eager"):
        return
    AttentionInterface.register(_name(base), partial(_attention, base))
    AttentionMaskInterface.register(_name(base), mask_function(base))
    model.set_attn_implementation(_name(base))


def row_tables(config: PreTrainedConfig, lengths: Sequence[int], prefixes: Sequence[int]) -> Any:
    """What stands in the place of the masks of a model: a table, or one for each kind of layer it has.

    Raises `ValueError` for layers of another kind (chunked, recurrent, convolutional).
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    strange = sorted(kinds - _LAYERS.keys())
    if strange or getattr(config, "attention_chunk_size", None) is not None:
        raise ValueError(f"layers of the kind `{strange[0] if strange else 'chunked_attention'}`")
    window = getattr(config, "sliding_window", None) or 0
    if not kinds:
        return _table(lengths, prefixes, window)
    return {kind: _table(lengths, prefixes, window if _LAYERS[kind] else 0) for kind in kinds}


@contextmanager
def counted_calls() -> Iterator[list[None]]:
    """One entry for each time that attention is run row by row meanwhile: a layer that mixes rows by other means adds none."""
    calls: list[None] = []
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and each afterwards in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _name(base: str) -> str:
    return f"vlmzoo_rows_{base}"


def _table(lengths: Sequence[int], prefixes: Sequence[int], window: int) -> RowTable:
    # On the CPU wherever the model is: its numbers say where to cut, and are asked for in every layer.
    return torch.tensor([[list(zip(lengths, prefixes, [window] * len(lengths), strict=True))]], device="cpu")


def _attention(
    base: str,
    module: nn.Module,
    query: Float[Tensor, "B H S e"],
    key: Float[Tensor, "B G T e"],
    value: Float[Tensor, "B G T v"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Any]:
    """An attention function of transformers: `base` once for a mask, or for each row of a table."""
    attend = attention_function(base, module)
    if attention_mask is None or attention_mask.dtype != torch.long:
        return attend(module, query, key, value, attention_mask, **options)
    if (calls := _CALLS.get()) is not None:
        calls.append(None)
    if options.get("position_bias") is not None:
        raise ValueError("a bias between positions, which says nothing of rows")
    seen = []
    start = 0
    for length, prefix, window in attention_mask[0, 0].tolist():
        row = slice(start, start + length)
        mask = None
        if base == "eager" or prefix > 1 or 0 < window < length:
            mask = _row_mask(length, prefix, window, query.device)
        if base == "eager":  # it adds what it is given to the scores
            mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(
                ~mask, torch.finfo(query.dtype).min
            )
        seen.append(attend(module, query[:, :, row], key[:, :, row], value[:, :, row], mask, **options)[0])
        start += length
    return torch.cat(seen, dim=1), None


def _row_mask(length: int, prefix: int, window: int, device: torch.device) -> Bool[Tensor, "1 1 s s"]:
    """What the tokens of one row see: those of its window, and in its prefix each other."""
    place = torch.arange(length, device=device)
    behind = place[:, None] - place  # [s, s]: how far the one that is seen stands before the one that sees
    causal = (behind >= 0) & (behind < (window or length))
    return (causal | ((place < prefix)[:, None] & (place < prefix)))[None, None]
