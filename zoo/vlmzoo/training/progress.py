"""What a person sees while a run goes on, and the log that a program reads afterwards."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vlmzoo.training.trainable import PartState


class RunLog:
    """One JSON object per line, written whole and flushed, so that a killed run leaves a log that can be read."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StepProgress:
    """A progress bar over optimizer steps with the loss beside it; nothing where `console` is None."""

    def __init__(self, console: Console | None, name: str, steps: int) -> None:
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

    def advance(self, loss: float) -> None:
        """One step further."""
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
            names[state.name],
            state.mode,
            f"{trained + frozen:,}",
            f"{trained:,}",
            "-" if settings is None else f"{settings.lr:g}",
        )
    return table
