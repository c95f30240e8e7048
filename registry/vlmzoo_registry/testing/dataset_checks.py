"""What holds for every dataset: its rows are samples that can be found again, with as many images as they have places for."""

from vlmzoo_registry.component import Component
from vlmzoo_registry.tasks import IMAGE, Dataset, Sample
from vlmzoo_registry.testing.check import CheckFunction, require
from vlmzoo_registry.testing.tiny import make, tiny_config

LOOKED_AT = 20
"""How many rows are looked at, from the first on."""


def rows_are_samples(component: Component) -> None:
    """Every row is a `Sample` with a source, turns, one image for each `<image>` in them, and images that open in RGB.

    Why: the number of markers is the number of image slots in the text; and an error can only name a row that has a source.

    If it fails: check each row when the dataset is made, and collect what is wrong into one `DataError` that names file, line
    and field.
    """
    reasons = []
    for index, sample in enumerate(_rows(component)):
        if not isinstance(sample, Sample):
            reasons.append(f"row {index} is a {type(sample).__name__}, no Sample")
            continue
        if not sample.id or not sample.source:
            reasons.append(f"row {index} has the id {sample.id!r} and the source {sample.source!r}")
        if not any(turn.role == "assistant" and turn.text.strip() for turn in sample.turns):
            reasons.append(f"row {index} ({sample.source}): the assistant says nothing")
        markers = sum(turn.text.count(IMAGE) for turn in sample.turns)
        if markers != len(sample.images):
            reasons.append(f"row {index} ({sample.source}): {markers} `{IMAGE}` for {len(sample.images)} images")
        modes = [opener().mode for opener in sample.images]
        if set(modes) - {"RGB"}:
            reasons.append(f"row {index} ({sample.source}): images of the modes {modes}, not RGB")
    require(not reasons, "rows that are no whole samples", reasons)


def rows_stay_the_same(component: Component) -> None:
    """A row is the same every time it is asked for, and in every instance of the dataset; its images too.

    Why: a resumed run must see what the first would have seen; random draws belong to the stream, which keys them by row.

    If it fails: keep rows by index, read nothing in an order that the system chooses (sets, folders unsorted), draw nothing.
    """
    first, second = _rows(component), _rows(component)
    require(len(first) == len(second), f"two instances have {len(first)} and {len(second)} rows")
    changed = []
    for index, (one, two) in enumerate(zip(first, second, strict=True)):
        if (one.id, one.turns, one.source) != (two.id, two.turns, two.source):
            changed.append(f"row {index}: {one} and then {two}")
        elif [opener().tobytes() for opener in one.images] != [opener().tobytes() for opener in two.images]:
            changed.append(f"row {index} ({one.source}): its images differ")
    require(not changed, "rows that change", changed)


CHECKS: tuple[CheckFunction, ...] = (rows_are_samples, rows_stay_the_same)


def _rows(component: Component) -> list[Sample]:
    """The first rows, in order."""
    dataset = make(component, Dataset, tiny_config(component))  # type: ignore[type-abstract]
    require(len(dataset) > 0, "the tiny dataset has no rows")
    return [dataset[index] for index in range(min(len(dataset), LOOKED_AT))]
