"""A dataset made out of another, sample by sample when asked for: what all rules give."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from vlmzoo_registry.tasks import Dataset, Sample

Place = TypeVar("Place")


class Derived(Dataset, Generic[Place]):
    """One sample for each of `places`, which `make` reads from `rows`: an index, several, or an index and what to do."""

    def __init__(self, rows: Dataset, places: Sequence[Place], make: Callable[[Dataset, Place], Sample]) -> None:
        self._rows = rows
        self._places = tuple(places)
        self._make = make

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        """The sample at this index."""
        return self._make(self._rows, self._places[index])


def same(rows: Dataset, index: int) -> Sample:
    """The sample as it is."""
    return rows[index]
