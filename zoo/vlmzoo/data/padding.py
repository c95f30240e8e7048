"""Rows of different lengths as one tensor."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

Side = Literal["left", "right"]


def pad_rows(rows: Sequence[Tensor], value: float, *, side: Side) -> Tensor:
    """Rows of one dimension as one tensor [B, S], S the longest; filled with `value` on one side."""
    length = max(len(row) for row in rows)
    batch = rows[0].new_full((len(rows), length), value)
    for number, row in enumerate(rows):
        start = length - len(row) if side == "left" else 0
        batch[number, start : start + len(row)] = row
    return batch
