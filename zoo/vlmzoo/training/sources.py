"""The data sets of a stage as they are opened: which rows can be used, what is wrong with the others, what rules did."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from rich.progress import Progress

from vlmzoo.config import BatchingConfig, DataChoice, StageConfig
from vlmzoo.data import Collator
from vlmzoo.data.piece_limit import beyond_a_piece, views_of
from vlmzoo.data.truncation import TooLongError
from vlmzoo_registry import BadRowsError, DataError, Dataset, Fault, RefusedRowsError, Sample
from vlmzoo_registry.errors import SHOWN_FAULTS, fault_of


@dataclass(frozen=True)
class Source:
    """A data set of a stage: its rows with its rules applied, the faults of the rows it could not read, notes of its rules."""

    name: str
    rows: Dataset
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def bad_rows(self) -> int:
        """How many rows it could not read."""
        return len({fault.place for fault in self.faults})


class Kept(Dataset):
    """Those rows of a data set that stand at `places`."""

    def __init__(self, rows: Dataset, places: Sequence[int]) -> None:
        self._rows = rows
        self._places = tuple(places)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:
        """The row at this index of those that are kept."""
        return self._rows[self._places[index]]


def read_source(choice: DataChoice) -> Source:
    """A data set without the rows that it cannot read, its rules not yet applied. Raises `DataError` as a whole."""
    try:
        rows, faults = choice.unruled(), tuple[Fault, ...]()
    except BadRowsError as error:
        rows, faults = error.rest, error.faults
    return Source(choice.component.full_name, rows, faults, ())


def apply_rules(choice: DataChoice, source: Source) -> Source:
    """The same with its rules applied. Raises `DataError` where a rule refuses it."""
    rows, notes = choice.ruled(source.rows)
    return replace(source, rows=rows, notes=notes)


def open_source(choice: DataChoice) -> Source:
    """A data set without the rows that it cannot read, with its rules applied. Raises `DataError` where that cannot be done."""
    return apply_rules(choice, read_source(choice))


def refusal(error: DataError, name: str) -> tuple[Fault, ...]:
    """Why a data set, or a rule of it, refuses its rows: a fault for each row that is named, else one of the data set."""
    if isinstance(error, RefusedRowsError):
        return (Fault(name, error.whole), *error.faults)
    return (fault_of(error, name),)


@dataclass(frozen=True)
class Look:
    """What was seen of a row: what is wrong with it, whether it is too long to be used, whether training cuts it."""

    faults: tuple[Fault, ...]
    too_long: bool = False
    cut: bool = False


def look_at(rows: Dataset, index: int, collate: Collator, batching: BatchingConfig) -> Look:
    """What is seen of a row when it is read, its images are opened, it is made tokens of and is to fit into a piece."""
    try:
        sample = rows[index]
    except RefusedRowsError as error:
        return Look(error.faults)
    except DataError as error:
        return Look((fault_of(error, f"row {index}"),))
    faults = []
    for opener in sample.images:
        try:
            opener()
        except DataError as error:
            faults.append(fault_of(error, sample.source))
    if faults:
        return Look(tuple(faults))
    try:
        fitted = collate.fit(sample)  # a layout that cuts looks at the images again
    except DataError as error:
        return Look((fault_of(error, sample.source),), too_long=isinstance(error, TooLongError))
    beyond = beyond_a_piece(
        len(fitted.row.input_ids),
        views_of(sample, collate),
        max_tokens=batching.max_tokens,
        max_images=batching.max_images,
    )
    return Look(tuple(Fault(sample.source, reason) for reason in beyond), cut=fitted.cut)


def notes_of_length(looks: Sequence[Look]) -> tuple[str, ...]:
    """How many rows were too long, in a note like those of rules; none where no row was."""
    cut, refused = sum(look.cut for look in looks), sum(look.too_long for look in looks)
    return (f"max_length: cut {cut} of {len(looks)} rows, refused {refused}",) if cut or refused else ()


def leave_out_bad_rows(
    sources: Sequence[Source], stage: StageConfig, collate: Collator | None, bar: Progress
) -> Iterator[Source]:
    """The sources without rows that cannot be used; with a `collate`, each row is looked at as in training.

    `bar` shows how far that is.

    Raises `DataError` where more rows are bad than the stage's `max_bad_rows` allows, as soon as that is clear.
    """
    total = sum(len(source.rows) + source.bad_rows for source in sources)
    allowed = stage.max_bad_rows if isinstance(stage.max_bad_rows, int) else int(stage.max_bad_rows * total)
    found: list[Fault] = [fault for source in sources for fault in source.faults]
    bad = sum(source.bad_rows for source in sources)
    for source in sources:
        faults, kept, looks = list(source.faults), [], []
        task = bar.add_task(f"{stage.name}: checking {source.name}", total=len(source.rows))
        for index in range(len(source.rows)):
            look = Look(()) if collate is None else look_at(source.rows, index, collate, stage.batching)
            looks.append(look)
            bar.advance(task)
            found += look.faults
            faults += look.faults
            if look.faults:
                bad += 1
            else:
                kept.append(index)
            if bad > allowed:
                break
        if bad > allowed:
            share = f" ({stage.max_bad_rows:.2%} of them)" if isinstance(stage.max_bad_rows, float) else ""
            raise DataError(
                f"stage `{stage.name}`: at least {bad} of {total} rows are bad, and `max_bad_rows` allows {allowed}{share}: "
                "mend them (`vlmzoo labels RECIPE --check` lists all), or raise `max_bad_rows`. They begin with:",
                [str(fault) for fault in found[:SHOWN_FAULTS]],
            )
        yield Source(source.name, Kept(source.rows, kept), tuple(faults), (*source.notes, *notes_of_length(looks)))
