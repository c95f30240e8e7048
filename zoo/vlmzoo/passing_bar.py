"""A bar that is shown while samples are looked at, and is gone afterwards."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def passing_bar(console: Console | None, unit: str = "") -> Progress:
    """To be used in a `with`; `unit` stands behind the counts. Nothing is shown without a console, or in a pipe.

    A pipe keeps what is printed, so that a bar that is gone would leave empty lines there.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=console is None or not console.is_terminal,
        transient=True,
    )
