"""The samples of a stage: the datasets of its `data:`, one after the other."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from vlmzoo_registry import DataError, Dataset, Sample


class Samples:
    """Several datasets as one; the ids of samples are made unique by the number of their dataset."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self._datasets = tuple(datasets)
        self._ends = list(accumulate(len(dataset) for dataset in self._datasets))
        if not self._ends or self._ends[-1] == 0:
            raise DataError(f"`data`: {len(self._datasets)} datasets, and not one sample in them")

    def __len__(self) -> int:
        """How many samples there are in all."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """The sample at this index."""
        number = bisect_right(self._ends, index)
        return self._datasets[number][index - (self._ends[number - 1] if number else 0)]
