"""What a person sees while a run goes on, and the log that a program reads afterwards."""

import json
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vlmzoo.training.trainable import PartState


class RunLog:
    """`log.jsonl`: one JSON object per line, written whole and flushed, so that a killed run leaves a log that can be read.

    The log of an earlier run that did not end stays beside it as `log.1.jsonl` and so on. Without `writes` (in all processes
    but the first) nothing is written.
    """

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._file: IO[str] | None = None
        if writes:
            path = folder / "log.jsonl"
            if path.exists():
                path.rename(folder / f"log.{len(list(folder.glob('log.*.jsonl'))) + 1}.jsonl")
            self._file = path.open("x", encoding="utf-8")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        if self._file is not None:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()


class StepProgress:
    """A progress bar over optimizer steps with the loss beside it; nothing is shown where `console` is None.

    An interruption (a signal, a keyboard's) leaves it with a note of what was lost.
    """

    def __init__(self, console: Console | None, name: str, steps: int) -> None:
        self._name, self._steps, self._done = name, steps, 0
        self._progress = None
        if console is not None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task(name, total=steps, loss="-")

    def __enter__(self) -> "StepProgress":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
        if error is not None and not isinstance(error, Exception):
            error.add_note(
                f"stage `{self._name}` stopped after step {self._done} of {self._steps}, before its checkpoint was whole: what "
                "it learnt is lost, and nothing else is damaged"
            )

    def advance(self, loss: float) -> None:
        """One step further."""
        self._done += 1
        if self._progress is not None:
            self._progress.update(self._task, advance=1, loss=f"{loss:.3f}")


def parts_table(states: tuple[PartState, ...], names: dict[str, str]) -> Table:
    """What trains, before anything does."""
    table = Table(title="What trains", title_justify="left", box=None, pad_edge=False)
    for column in ("part", "component", "mode", "parameters", "trained", "lr"):
        justify: Literal["left", "right"] = "right" if column in ("parameters", "trained", "lr") else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != "component")
    for state in states:
        trained = sum(parameter.numel() for parameter in state.trained.values())
        frozen = sum(parameter.numel() for parameter in state.frozen.values())
        settings = state.settings
        table.add_row(
            state.name,
            names[state.name].replace(" + ", "\n+ "),
            state.mode,
            f"{trained + frozen:,}",
            f"{trained:,}",
            "-" if settings is None else f"{settings.lr:g}",
        )
    return table
