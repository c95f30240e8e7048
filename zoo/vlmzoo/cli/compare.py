"""`vlmzoo compare`: combinations of parts under one budget."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo_registry import ResourceError, VlmzooError

if TYPE_CHECKING:
    from vlmzoo.comparison.cells import Cell
    from vlmzoo.comparison.result import Comparison


class CellsFailedError(VlmzooError):
    """Some cells of a comparison have no result; the exit code is theirs, or that of resources where they differ."""

    def __init__(self, comparison: "Comparison") -> None:
        from vlmzoo.comparison.table import failure_lines

        codes = {failed.exit_code for failed in comparison.failures}
        self.exit_code = codes.pop() if len(codes) == 1 else ResourceError.exit_code
        failed = len(comparison.failures)
        total = failed + len(comparison.cells)
        super().__init__(
            f"{failed} of {total} cells have no result; the same command tries them again and keeps the others",
            failure_lines(comparison),
        )


def compare(
    grid: Annotated[Path, typer.Argument(help="The grid, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the grid, such as `budget.steps=10`.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the comparison.")] = Path("runs/comparison"),
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="List the cells and train none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object, and no progress.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", metavar="", help="Print Markdown, and no progress.")] = False,
) -> None:
    """Compare combinations of parts under one budget.

    Trains every cell of the grid in a process of its own, asks each the same questions, seeing and blind, and writes
    `comparison.json` and `report.html`. The same command goes on after an interruption, and tries again what failed.
    """
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.comparison.compare import COMPARISON, REPORT, plan_comparison
    from vlmzoo.comparison.compare import compare as run
    from vlmzoo.comparison.table import budget_line, frequent_lines, markdown, rich_tables

    quiet_frameworks()
    screen = console()
    shown = None if as_json or as_markdown else screen
    if dry_run:
        cells = plan_comparison(grid, overrides=overrides or (), console=shown)
        rows = [_described(cell) for cell in cells]
        if as_json:
            print_json(rows)
        else:
            screen.print(_table(rows))
        return
    comparison = run(grid, output=output, overrides=overrides or (), console=shown)
    if as_json:
        print_json(comparison.to_dict())
    elif as_markdown:
        print(markdown(comparison), end="")
    else:
        screen.print()
        for table in rich_tables(comparison, screen.width):
            screen.print(table)
            screen.print()
        for line in (budget_line(comparison), *frequent_lines(comparison)):
            screen.print(Text(line, "dim"))
        screen.print(f"Report: {output / REPORT}", soft_wrap=True)
        screen.print(f"Figures: {output / COMPARISON}", soft_wrap=True)
    if comparison.failures:
        raise CellsFailedError(comparison)


def _described(cell: "Cell") -> dict[str, object]:
    """A cell before it is trained."""
    planned = cell.combination.plan
    return {
        "cell": cell.name,
        **{f"axis {axis}": value for axis, value in cell.combination.values.items()},
        "seed": cell.seed,
        "architecture": planned.architecture,
        "image_tokens": planned.image_tokens,
        "parameters": sum(part.parameters for part in planned.parts),
        "steps": None if cell.length is None else cell.length.steps,
        "supervised_tokens": None if cell.length is None else cell.length.supervised_tokens,
        "images": None if cell.length is None else cell.length.images,
    }


def _table(rows: list[dict[str, object]]) -> Table:
    table = Table(box=None, pad_edge=False)
    headings = {
        "cell": "cell",
        "image_tokens": "tokens / image",
        "parameters": "parameters",
        "steps": "steps",
        "supervised_tokens": "supervised tokens",
        "images": "images",
    }
    for key, heading in headings.items():
        table.add_column(heading, justify="left" if key == "cell" else "right", overflow="fold", no_wrap=key == "cell")
    for row in rows:
        table.add_row(*("-" if row[key] is None else f"{row[key]:,}" if key != "cell" else str(row[key]) for key in headings))
    return table
