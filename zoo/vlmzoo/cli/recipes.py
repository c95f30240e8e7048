"""`vlmzoo recipes`: the recipes that come with it, with their sources, or one of them as it is written."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo.config.load import load_about
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo_registry import ConfigError
from vlmzoo_registry.suggest import did_you_mean


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One recipe: print its file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON list; of one recipe, an object.")] = False,
) -> None:
    """The recipes that come with vlmzoo: what each reproduces, from where, and what of it nobody has checked.

    A name stands for its file: `vlmzoo plan NAME`, `vlmzoo train NAME`. To change one, save it as a file of your own:
    `vlmzoo recipes NAME > mine.yaml`.
    """
    shipped = shipped_recipes()
    if name is not None and name not in shipped:
        raise ConfigError(f"there is no recipe `{name}`{did_you_mean(name, shipped)} (`vlmzoo recipes` lists them)")
    if name is None:
        rows = [_fields(each, file) for each, file in shipped.items()]
        print_json(rows) if as_json else _print(rows)
    elif as_json:
        print_json({**_fields(name, shipped[name]), "file": str(shipped[name])})
    else:
        print(shipped[name].read_text(encoding="utf-8"), end="")


def _fields(name: str, file: Path) -> dict[str, Any]:
    return {"name": name, **load_about(file).dump()}


def tokens_in_words(published: dict[str, Any] | None) -> str:
    """Tokens per image as one figure, or as the range that images of different sizes span; empty where none are published."""
    if published is None:
        return ""
    tokens = published["image_tokens"]
    counts = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    low, high = min(counts), max(counts)
    return f"{low} tokens per image" if low == high else f"{low} to {high} tokens per image"


def _print(rows: list[dict[str, Any]]) -> None:
    out = console()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for row in rows:
        figures = tokens_in_words(row["published"])
        table.add_row(Text(row["name"], "bold"), Text(", ".join(filter(None, [row["title"], figures]))))
        table.add_row("", Text(" · ".join(row["sources"]), "dim"))
        for label in ("differs", "unverified"):
            for line in row[label]:
                table.add_row("", Padding(Text(f"{label}: {line}", "dim"), (0, 0, 0, 2)))
    out.print(table)
    out.print(f"\n{len(rows)} recipes. `vlmzoo plan NAME` checks one, `vlmzoo recipes NAME` prints its file.")
