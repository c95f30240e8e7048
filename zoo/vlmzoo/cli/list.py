"""`vlmzoo list`: which parts there are."""

from itertools import groupby
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo.cli.describe import describe, source
from vlmzoo_registry import default_catalogue


def list_components(
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only parts of this kind, for instance `connector`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON list.")] = False,
) -> None:
    """The parts there are, kind by kind, with source, licence and paper.

    Recipes name a part by its full name, `plugin/part`, or by what follows the slash while only one plugin has it.
    """
    rows = [describe(component) for component in default_catalogue().components(kind)]
    if as_json:
        print_json(rows)
        return
    out = console()
    width = max((len(row["name"]) for row in rows), default=0)
    for heading, group in groupby(rows, key=lambda row: row["kind"]):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=width, no_wrap=True)
        table.add_column(overflow="fold")  # an address is worth nothing in part
        for row in group:
            table.add_row(Text(row["name"], "bold"), Text(row["summary"]))
            table.add_row("", Text(source(row), "dim"))
        out.print(Text(heading, "bold underline"))
        out.print(table)
        out.print()
    out.print(f"{len(rows)} parts. `vlmzoo show NAME` tells more about one, `vlmzoo doctor` how the plugins are.")
