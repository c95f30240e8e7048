"""What a person sees while a comparison goes on: a line for each cell that is done, a bar (or lines) for the one at work."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from vlmzoo.line_progress import LineProgress
from vlmzoo.training.history import LOG


class GridProgress:
    """Counts cells, and looks at the log of the one that trains; nothing is shown where `console` is None."""

    def __init__(self, console: Console | None, cells: int) -> None:
        self._console, self._cells, self._number = console, cells, 0
        self._bar: LineProgress | None = None
        if console is not None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
            self._bar = LineProgress(*columns, TimeElapsedColumn(), console=console, transient=True)
            self._task = self._bar.add_task("cells", total=cells, now="")

    def __enter__(self) -> "GridProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, name: str) -> None:
        """A cell starts."""
        self._now = name
        self._update(f"{name} begins")

    def look(self, run: Path) -> None:
        """Show how far the cell at work is, by what its newest log says."""
        logs = sorted(run.glob(f"*/{LOG}"), key=lambda path: path.stat().st_mtime) if self._bar is not None else []
        if not logs:
            return
        lines = logs[-1].read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
        try:
            header, last = json.loads(lines[0]), json.loads(lines[-1])
        except (IndexError, ValueError):
            return  # it is being written
        if "step" in last:
            self._update(f"{self._now}: step {last['step'] + 1} of {header['steps']}, loss {last['loss']:.3f}")
        elif "losses" in last:
            self._update(f"{self._now}: asking")

    def done(self, name: str, told: Mapping[str, Any], *, kept: bool) -> None:
        """A cell has its result; `kept` where an earlier call made it."""
        scores = ", ".join(f"{metric} {score['mean']:.3f}" for metric, score in told["seeing"]["scores"].items())
        how = "done before" if kept else f"{told['steps']} steps in {told['seconds']:.0f} s"
        self._line("ok", "green", f"{name}  {how}, held-out loss {told['seeing']['loss']:.3f}, {scores}")

    def failed(self, name: str, message: str) -> None:
        """A cell has none."""
        self._line("failed", "bold red", f"{name}  {message}")

    def _line(self, word: str, style: str, text: str) -> None:
        self._number += 1
        if self._bar is not None:
            line = Text.assemble((f"[{self._number}/{self._cells}] ", "dim"), (word, style), "  ", text)
            self._bar.console.print(line, soft_wrap=True)
            self._bar.update(self._task, completed=self._number, now="")

    def _update(self, now: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, now=now)
