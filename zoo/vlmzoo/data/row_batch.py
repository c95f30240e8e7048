"""What a batch says of its rows: ids, what is supervised in them, who sees whom, and what else an objective gives them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlmzoo.data.padding import pad_rows
from vlmzoo_registry import DataError, Objective, TokenRow
from vlmzoo_registry.token_row import IGNORE


def rows_batch(rows: Sequence[TokenRow], objective: Objective, *, filler: int, flatten: bool = False) -> dict[str, Tensor]:
    """Rows padded on the right: `input_ids`, `attention_mask`, `labels` (or `targets`), and where they differ from the rest
    `weights`, `prefix_mask`, `position_ids`, `segment_ids`, `span_positions` [B, S], `sentence_labels` [B].

    With `flatten` one row after the other in a single one [1, S]: then `row_lengths` [B] in the place of `attention_mask`.
    """

    def together(values: Sequence[Tensor], fill: float) -> Tensor:
        return torch.cat(list(values))[None] if flatten else pad_rows(values, fill, side="right")

    batch = {"input_ids": together([row.input_ids for row in rows], filler)}
    if flatten:
        batch["row_lengths"] = torch.tensor([len(row.input_ids) for row in rows])
    else:
        batch["attention_mask"] = together([torch.ones_like(row.input_ids) for row in rows], 0)
    labels = [row.labels for row in rows]
    if objective.shift:
        # Nothing stands before the first token of a row: behind another row it would be counted, and learnt nowhere.
        labels = [torch.cat([torch.full_like(row[:1], IGNORE), row[1:]]) for row in labels]
    batch["labels" if objective.shift else "targets"] = together(labels, IGNORE)
    if any(row.weights is not None for row in rows):
        weights = [torch.ones(len(row.labels)) if row.weights is None else row.weights for row in rows]
        batch["weights"] = together(weights, 1.0)
    if objective.attention != "causal":
        seen = [torch.arange(len(row.labels)) < prefix_length(row, objective) for row in rows]
        batch["prefix_mask"] = together(seen, False)
    channels = {
        "position_ids": [row.position_ids for row in rows],
        "segment_ids": [row.segment_ids for row in rows],
        "span_positions": [row.span_positions for row in rows],
    }
    for name, values in channels.items():
        given = [value for value in values if value is not None]
        if len(given) == len(rows):
            batch[name] = together(given, 0)
    if "sentence_labels" in objective.needs:
        batch["sentence_labels"] = torch.tensor([row.sentence_label for row in rows])
    return batch


def prefix_length(row: TokenRow, objective: Objective) -> int:
    """How many tokens at the beginning of a row see each other in both directions.

    Raises `DataError` for a row of several answers where these are all that stand before the answer.
    """
    if row.prefix is not None:
        return row.prefix
    if objective.attention == "full":
        return len(row.labels)
    said = (row.labels != IGNORE).nonzero().squeeze(1)
    first, last = int(said[0]), int(said[-1])
    if last - first + 1 != len(said):
        raise DataError(
            f"its answers stand at tokens {first} to {last} with others between them, and all before the answer is read in "
            "both directions: give each answer a row of its own, or take the objective `instruct`"
        )
    return first
