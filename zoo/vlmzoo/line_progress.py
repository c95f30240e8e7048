"""Shows how far something is: a bar in a terminal, elsewhere plain lines, as in a pipe or in the log of a batch system."""

import threading
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.text import Text

SECONDS = 30.0
"""At most so long nothing is said where no bar can be shown."""

_LOOK = 1.0  # seconds between two looks at the clock
_PERIOD = 3600.0  # seconds that the time left is estimated from; rich's own 30 know no pace of steps that take longer


class LineProgress(Progress):
    """A bar of rich; where `console` is no terminal, a line every 30 seconds for each task under way.

    Nothing is shown without a console. A line is what the columns say, without the bar and without control codes. A bar that
    is not `transient`, one that would stay, leaves a last line. `clock` gives seconds.
    """

    def __init__(
        self,
        *columns: ProgressColumn,
        console: Console | None,
        transient: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(
            *columns,
            console=console,
            transient=transient,
            disable=console is None,
            speed_estimate_period=_PERIOD,
            get_time=clock,
        )
        self._prints = console is not None and not (console.is_interactive or console.is_jupyter)
        self._stays = not transient
        self._ended = threading.Event()
        self._reporter: threading.Thread | None = None
        self._said = 0.0  # when

    def start(self) -> None:
        """Show the bar, or begin to print lines."""
        if not self._prints:
            super().start()
            return
        self._said = self.get_time()
        self._ended.clear()
        # A thread, as rich has one for the bar: a single step may take minutes.
        self._reporter = threading.Thread(target=self._report, name="progress", daemon=True)
        self._reporter.start()

    def stop(self) -> None:
        """Take the bar away, or end the lines."""
        if not self._prints:
            super().stop()
            return
        if self._reporter is None:
            return
        self._ended.set()
        self._reporter.join()
        self._reporter = None
        if self._stays:
            for task in self.tasks:
                self._say(task)

    def look(self) -> None:
        """Print the lines if nothing was said for 30 seconds."""
        if not self._prints or self.get_time() - self._said < SECONDS:
            return
        self._said = self.get_time()
        for task in self.tasks:
            if not task.finished:
                self._say(task)

    def _report(self) -> None:
        while not self._ended.wait(_LOOK):
            self.look()

    def _say(self, task: Any) -> None:
        shown = (column(task) for column in self.columns if isinstance(column, ProgressColumn))
        words = " ".join(cell.plain for cell in shown if isinstance(cell, Text)).split()
        self.console.print(" ".join(words), soft_wrap=True, markup=False, highlight=False, emoji=False)
