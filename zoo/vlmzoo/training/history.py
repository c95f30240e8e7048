"""A stage's `log.jsonl`: written while it trains, cut where a killed run is taken up, and read in this one place."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from vlmzoo.durable import replace_file
from vlmzoo_registry import DataError

LOG = "log.jsonl"

# The kinds of records, in the order in which they stand in a log.
STAGE, STEP, AUDIT, END = "stage", "step", "audit", "end"

Record = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """What a log says of a stage; `audit` and `end` are None while it is not finished.

    `stage` is the header: name, digest of the recipe, number of steps, versions, table of parts. `steps` are the logged ones,
    `audit` is what the audit found of every part, `end` the totals and the loss of every step.
    """

    stage: Record
    steps: tuple[Record, ...]
    audit: Record | None
    end: Record | None

    @property
    def name(self) -> str:
        """The stage's."""
        return str(self.stage["stage"])

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, loss in nats per supervised token): of every step of a finished stage, else of those that were logged."""
        if self.end is not None:
            return list(enumerate(self.end["losses"]))
        return [(record["step"], record["loss"]) for record in self.steps]


def read_log(folder: Path) -> History:
    """The log in the folder of a stage, finished or not; a last line that a kill cut off is left out.

    Raises `DataError` where there is no log, or not one of vlmzoo's.
    """
    path = folder / LOG
    records = _records(path)
    if not records or records[0].get("kind") != STAGE:
        raise DataError(f"`{path}` is not the log of a stage: there is no such file, or its first line is another's")
    found = {kind: [record for record in records if record.get("kind") == kind] for kind in (STEP, AUDIT, END)}
    return History(
        stage=records[0],
        steps=tuple(found[STEP]),
        audit=found[AUDIT][-1] if found[AUDIT] else None,
        end=found[END][-1] if found[END] else None,
    )


class RunLog:
    """Appends records, each a line that is written whole and flushed, so that a killed run leaves a log that can be read.

    `step` is where the stage begins, or is taken up: the header and the records of earlier steps stay, and those of later
    ones, which will be made again, are cut; the log as it was is then kept as `log.1.jsonl` and so on. Without `writes` (in
    all processes but the first) nothing is written. `header` is the one that the log has, of the stage's beginning.
    """

    def __init__(self, folder: Path, header: Record, *, step: int = 0, writes: bool = True) -> None:
        self.header: Record = header
        self._file: IO[str] | None = None
        if not writes:
            return
        path = folder / LOG
        old = _records(path)
        kept = [record for record in old if record.get("kind") == STEP and record["step"] < step]
        lines = [old[0] if old and step else {"kind": STAGE, **header}, *kept]
        self.header = lines[0]
        if len(old) > len(lines):
            shutil.copyfile(path, folder / f"log.{len(list(folder.glob('log.*.jsonl'))) + 1}.jsonl")
        replace_file(path, "".join(_line(record) for record in lines))
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, kind: str, record: Record) -> None:
        """Append a record."""
        if self._file is not None:
            self._file.write(_line({"kind": kind, **record}))
            self._file.flush()
            if kind == END:
                os.fsync(self._file.fileno())


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; nothing where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    try:
        records = [json.loads(line) for line in text.split("\n")[:-1]]
    except ValueError as error:
        raise DataError(
            f"`{path}` has a line that is not JSON ({error}): it was edited or damaged; move it away to go on without"
        ) from error
    if not all(isinstance(record, dict) for record in records):
        raise DataError(
            f"`{path}` has a line that is not a JSON object: it was edited or damaged; move it away to go on without"
        )
    return records
