"""What one forward sees in one process, and how it is read: the rows drawn for it, made tensors.

The same function reads in the training process and in worker processes, so that both give the same tensors and errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from vlmzoo.data import Collator, Draw
from vlmzoo.data.lengths import LENGTHS, Lengths
from vlmzoo.shortened import enumerated
from vlmzoo.training.foreign_errors import foreign_errors_named
from vlmzoo.training.samples import Samples
from vlmzoo_registry import DataError


@dataclass(frozen=True)
class MicroBatch:
    """What one forward sees: `tensors` as the collator makes them, where its rows come from, how many images they show."""

    tensors: dict[str, Tensor]
    sources: tuple[str, ...]
    images: int


def read_micro_batch(rows: Samples, collate: Collator, draws: Sequence[Draw], lengths: Lengths | None = None) -> MicroBatch:
    """The rows drawn for one forward as a batch.

    Raises `DataError` for those that cannot be used, whatever was raised, and for one that is not as long as `lengths` says.
    """
    samples = []
    for draw in draws:
        with foreign_errors_named(f"row {draw.index} (from 0) of the stage's data cannot be read"):
            samples.append(replace(rows[draw.index], epoch=draw.epoch))
    sources = tuple(sample.source for sample in samples)
    with foreign_errors_named(f"no batch can be made of {enumerated(sources, 8)}"):
        tensors = collate(samples)
    if lengths is not None and collate.objective.keeps_length:
        _check_lengths(tensors, sources, draws, lengths)
    return MicroBatch(tensors, sources, sum(len(sample.images) for sample in samples))


def _check_lengths(tensors: dict[str, Tensor], sources: Sequence[str], draws: Sequence[Draw], lengths: Lengths) -> None:
    """Raise `DataError` naming a row that is not as long as it was when lengths were measured."""
    flat, shown = tensors.get("row_lengths"), tensors.get("image_mask")
    tokens = (tensors["attention_mask"].sum(dim=1) if flat is None else flat).tolist()
    views = [0] * len(tokens) if shown is None else shown.sum(dim=1).tolist()
    for number, (draw, source) in enumerate(zip(draws, sources, strict=True)):
        before = lengths.tokens[draw.index], lengths.images[draw.index]
        if (tokens[number], views[number]) != before:
            raise DataError(
                f"{source}: its row has {tokens[number]} tokens and {views[number]} images (views of them), and had "
                f"{before[0]} and {before[1]} when lengths were measured, by which batches are filled: its image or text was "
                f"replaced since; remove `{LENGTHS}` from the stage's folder to measure again"
            )
