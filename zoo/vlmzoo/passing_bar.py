"""A bar that is shown while samples are looked at, and is gone afterwards."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vlmzoo.line_progress import LineProgress


def passing_bar(console: Console | None, unit: str = "") -> LineProgress:
    """To be used in a `with`; `unit` stands behind the counts. Nothing is shown without a console.

    In a pipe it prints lines while it takes long, and nothing of what is done before the first.
    """
    return LineProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
