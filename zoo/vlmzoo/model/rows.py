"""Rows of text that stand one after the other in a single sequence, without padding between them.

Where `row_lengths` is None the rows of a batch are those of its tensors; what is said of a row is then said in both cases by
one function.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from vlmzoo_registry import DataError
from vlmzoo_registry.token_row import IGNORE


def split_rows(batch: Shaped[Tensor, "B S"], row_lengths: Int[Tensor, " R"] | None) -> Sequence[Shaped[Tensor, "1 _"]]:
    """Each row of a batch."""
    return batch.split(1) if row_lengths is None else batch.split(row_lengths.tolist(), dim=1)


def row_positions(row_lengths: Int[Tensor, " R"], device: torch.device) -> Int[Tensor, "1 S"]:
    """The place of each token in its own row."""
    return torch.cat([torch.arange(length, device=device) for length in row_lengths.tolist()])[None]


def without_borders(labels: Int[Tensor, "1 S"], row_lengths: Int[Tensor, " R"]) -> Int[Tensor, "1 S"]:
    """Labels without those of the first token of each row: nothing before it says it, least of all the end of another row."""
    starts = row_lengths.cumsum(dim=0) - row_lengths
    return labels.index_fill(1, starts.to(labels.device), IGNORE)


def check_rows(
    row_lengths: Int[Tensor, " R"], input_ids: Int[Tensor, "B S"], images: int | None, refused: Mapping[str, object]
) -> None:
    """Raises `DataError` where lengths do not fit the ids, or the rows of images; or where something of `refused` is given."""
    lengths = row_lengths.tolist()
    reasons = [f"`{name}`: leave it out" for name, given in refused.items() if given is not None]
    if len(input_ids) != 1 or sum(lengths) != input_ids.shape[1] or min(lengths, default=0) < 1:
        reasons.append(
            f"`input_ids` {tuple(input_ids.shape)}: must be one row of the {sum(lengths)} tokens that its {len(lengths)} rows "
            "have, each one or more"
        )
    if images is not None and images != len(lengths):
        reasons.append(f"images: there are {images} rows of them, and {len(lengths)} rows of text")
    if reasons:
        raise DataError("`row_lengths` says that rows stand one after the other in one sequence, without padding", reasons)
