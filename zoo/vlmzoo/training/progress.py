"""What a person sees of a run: the table of what trains, and a bar (in a pipe: lines) while it goes on."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vlmzoo.config import Recipe
from vlmzoo.line_progress import LineProgress
from vlmzoo.training.trainable import PartState

_SMOOTHING = 0.1  # the share of the newest loss and pace in what the bar shows


class StepProgress:
    """A progress bar over optimizer steps, with the smoothed loss and the pace; nothing is shown where `console` is None.

    An interruption (a signal, a keyboard's) leaves it with a note of what is saved and how to go on.
    """

    def __init__(self, console: Console | None, name: str, steps: int, done: int = 0) -> None:
        self._name, self._steps, self._done, self._saved = name, steps, done, done
        self._loss: float | None = None
        self._seconds: float | None = None
        self._progress = None
        if console is not None:
            self._progress = LineProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TextColumn("{task.fields[pace]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._progress.add_task(f"{name}: step", total=steps, completed=done, loss="-", pace="")

    def __enter__(self) -> "StepProgress":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()
        if error is None or isinstance(error, Exception):
            return
        if self._saved == self._done:
            where = f"stage `{self._name}` is saved after step {self._done} of {self._steps}"
        else:
            where = f"stage `{self._name}` stopped after step {self._done} of {self._steps}, saved after step {self._saved}"
        error.add_note(f"{where}: the same command goes on from there")

    def advance(self, loss: float, seconds: float) -> None:
        """One step further, which had this loss and took this time."""
        self._done += 1
        self._loss = loss if self._loss is None else self._loss + _SMOOTHING * (loss - self._loss)
        self._seconds = seconds if self._seconds is None else self._seconds + _SMOOTHING * (seconds - self._seconds)
        if self._progress is not None:
            self._progress.update(self._task, advance=1, loss=f"{self._loss:.3f}", pace=_pace(self._seconds))

    def saved(self) -> None:
        """What is done so far will not be lost."""
        self._saved = self._done


def _pace(seconds: float) -> str:
    return f"{1 / seconds:.1f} steps/s" if 0 < seconds < 1 else f"{seconds:.1f} s/step"


def parts_rows(states: Sequence[PartState], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """What trains, part by part, as plain data: for the table, the log and reports."""
    rows = []
    for state in states:
        trained = sum(parameter.numel() for parameter in state.trained.values())
        frozen = sum(parameter.numel() for parameter in state.frozen.values())
        rows.append(
            {
                "part": state.name,
                "component": names[state.name],
                "trains": state.how,
                "parameters": trained + frozen,
                "trained": trained,
                "lr": None if state.settings is None else state.settings.lr,
            }
        )
    return rows


def parts_table(stage: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """What trains in a stage, before anything does."""
    table = Table(title=f"What trains in stage `{stage}`", title_justify="left", box=None, pad_edge=False)
    for column in ("part", "component", "trains", "size", "trained", "lr"):
        justify: Literal["left", "right"] = "right" if column in ("size", "trained", "lr") else "left"
        # What trains may be a long text; a name is not broken.
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != "trains")
    for row in rows:
        table.add_row(
            row["part"],
            row["component"].replace(" + ", "\n+ "),
            row["trains"],
            _count(row["parameters"]),
            _count(row["trained"]),
            "-" if row["lr"] is None else f"{row['lr']:g}",
        )
    return table


def _count(parameters: int) -> str:
    """Three digits and a unit: 134.5M; the log has all digits."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}" if parameters < 100 * size else f"{parameters / size:.1f}{unit}"
    return str(parameters)


def component_names(recipe: Recipe) -> dict[str, str]:
    """The components of each part."""
    section = recipe.model
    return {
        "vision": " + ".join(choice.component.full_name for choice in section.encoders),
        "connector": " + ".join(choice.component.full_name for choice in section.connector),
        "language": section.language.component.full_name,
    }
