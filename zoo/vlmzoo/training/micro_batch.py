"""What one forward sees in one process, and how it is read: the rows drawn for it, made tensors.

The same function reads in the training process and in worker processes, so that both give the same tensors and errors.
"""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from vlmzoo.data import Collator, Draw
from vlmzoo.shortened import enumerated
from vlmzoo.training.memory import is_shortage
from vlmzoo.training.samples import Samples
from vlmzoo_registry import DataError, VlmzooError


@dataclass(frozen=True)
class MicroBatch:
    """What one forward sees: `tensors` as the collator makes them, where its rows come from, how many images they show."""

    tensors: dict[str, Tensor]
    sources: tuple[str, ...]
    images: int


def read_micro_batch(rows: Samples, collate: Collator, draws: Sequence[Draw]) -> MicroBatch:
    """The rows drawn for one forward as a batch. Raises `DataError` for those that cannot be used, whatever was raised."""
    samples = []
    for draw in draws:
        try:
            samples.append(replace(rows[draw.index], epoch=draw.epoch))
        except Exception as error:
            raise _named(error, f"row {draw.index} (from 0) of the stage's data cannot be read") from error
    sources = tuple(sample.source for sample in samples)
    try:
        tensors = collate(samples)
    except Exception as error:
        raise _named(error, f"no batch can be made of {enumerated(sources, 8)}") from error
    return MicroBatch(tensors, sources, sum(len(sample.images) for sample in samples))


def _named(error: Exception, trouble: str) -> Exception:
    """The error itself where it is written for the reader or about memory; else one that says of which rows it came."""
    if isinstance(error, VlmzooError) or is_shortage(error):
        return error
    place = traceback.extract_tb(error.__traceback__)[-1]
    return DataError(
        f"{trouble}: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno}); mend the dataset or the "
        "part that raised this, or drop the row"
    )
