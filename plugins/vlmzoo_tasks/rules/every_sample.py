"""What a rule finds out about every sample of a dataset: all that it cannot be applied to is said at once."""

from collections.abc import Callable
from typing import TypeVar

from vlmzoo_registry.errors import DataError, Fault, RefusedRowsError, fault_of
from vlmzoo_registry.tasks import Dataset, Sample

Found = TypeVar("Found")


def of_every_sample(rows: Dataset, rule: str, find: Callable[[Sample], Found]) -> list[Found]:
    """What `find` says of each sample. Raises `RefusedRowsError` with all that cannot be read or that `find` refuses."""
    found: list[Found] = []
    faults: list[Fault] = []
    for index in range(len(rows)):
        place = f"row {index}"
        try:
            sample = rows[index]
            place = sample.source
            found.append(find(sample))
        except DataError as error:
            faults.append(fault_of(error, place))
    if faults:
        raise RefusedRowsError(f"rule `{rule}` cannot read {len(faults)} of {len(rows)} samples", faults)
    return found
