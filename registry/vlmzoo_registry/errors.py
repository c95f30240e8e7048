"""The errors of vlmzoo: one class per exit code, and every reason said at once.

A message says what went wrong, where (file:line, row id or field), the numbers on both sides, the nearest valid name, and
what to do. Whoever finds several reasons collects them and raises once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmzoo_registry.tasks import Dataset

SHOWN_FAULTS = 20
"""How many faults of rows a message shows; the error holds all."""


class VlmzooError(Exception):
    """Base of every error that is written for the reader; anything else that escapes is a fault of vlmzoo itself."""

    exit_code = 1

    def __init__(self, message: str, reasons: Sequence[str] = ()) -> None:
        self.message = message
        self.reasons = tuple(reasons)
        super().__init__(message if not reasons else message + "".join(f"\n  - {reason}" for reason in reasons))


class ConfigError(VlmzooError):
    """A config or recipe that cannot be understood: unknown key, wrong type, unknown component."""

    exit_code = 2


class AssemblyError(ConfigError):
    """Parts that are each well described but do not fit together."""


class DataError(VlmzooError):
    """A row, image or batch that cannot be used; names the row and the field."""

    exit_code = 3


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row: its `place` (`file:line`), and the `reason`, led by the field (`image: missing: ...`)."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class BadRowError(DataError):
    """One row that cannot be used: `fault` says where it stands and why, for who lists rows."""

    def __init__(self, place: str, reason: str) -> None:
        self.fault = Fault(place, reason)
        super().__init__(str(self.fault))


class RefusedRowsError(DataError):
    """Rows for which data is refused as a whole: `faults` are all of them, the message shows the first `SHOWN_FAULTS`.

    `whole` is what is said of them together, with their number and without a colon.
    """

    def __init__(self, whole: str, faults: Sequence[Fault]) -> None:
        shown = f", of which the first {SHOWN_FAULTS} are" if len(faults) > SHOWN_FAULTS else ""
        super().__init__(f"{whole}{shown}:", [str(fault) for fault in faults[:SHOWN_FAULTS]])
        self.whole = whole
        self.faults = tuple(faults)


class BadRowsError(RefusedRowsError):
    """Rows of a source that cannot be used, while the others can: `faults` are all of them, `rest` is the data without.

    A source raises it where a bad row is left out without harm, so that nobody loses rows unless they asked for that.
    """

    def __init__(self, source: str, faults: Sequence[Fault], rest: "Dataset") -> None:
        super().__init__(faults_of_rows(source, faults), faults)
        self.rest = rest


def faults_of_rows(source: str, faults: Sequence[Fault]) -> str:
    """How many faults the rows of a source have, in words."""
    return f"`{source}` has {len(faults)} {'fault' if len(faults) == 1 else 'faults'} in its rows"


def fault_of(error: DataError, place: str) -> Fault:
    """An error about one row as its fault; the row stands at `place`, unless the error knows better (`BadRowError`)."""
    if isinstance(error, BadRowError):
        return error.fault
    return Fault(place, " ".join(text.removeprefix(f"{place}: ") for text in (error.message, *error.reasons)))


class PluginError(VlmzooError):
    """A plugin that cannot be loaded, or one of its components that breaks its contract."""

    exit_code = 4


class CheckpointError(VlmzooError):
    """A checkpoint that is damaged, incomplete, or made of other parts."""

    exit_code = 5


class ResourceError(VlmzooError):
    """Not enough disk, memory or permission."""

    exit_code = 6
