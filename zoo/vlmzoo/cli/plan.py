"""`vlmzoo plan`: check a recipe before anything is downloaded or trained."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json


def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe or a model, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of it, such as `model.connector.depth=3`.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False,
) -> None:
    """Check a recipe before anything is downloaded or trained.

    Builds the parts without values: widths, grids, tokens per image, parameters and memory, or every reason why it cannot
    work. Reads architectures from this machine only.
    """
    from vlmzoo.planning import plan as check

    result = check(recipe, overrides=overrides or ())
    if as_json:
        print_json(result.to_dict())
        return
    out = console()
    out.print(Text(f"{result.architecture}, {result.image_tokens} tokens per image", "bold"), end="")
    out.print(f", {result.text_slots} of them in the text" if result.blocks == () else ", outside the text")
    for number, step in enumerate(result.steps):
        out.print(f"  {'-> ' if number else '   '}{step}")
    table = _table("part", "component", "parameters", "weights")
    for part in result.parts:
        table.add_row(part.part, part.component.replace(" + ", "\n+ "), f"{part.parameters:,}", _size(part.weight_bytes))
    out.print(table)
    weights = sum(part.weight_bytes for part in result.parts)
    for stage in result.stages:
        table = _table("part", "trains", "parameters", "training adds", title=f"Stage `{stage.name}`")
        for row in stage.parts:
            table.add_row(row.part, row.trains, f"{row.trained:,}", _size(row.training_bytes))
        out.print(table)
        total = weights + sum(row.training_bytes for row in stage.parts)
        out.print(f"Memory for weights, gradients and AdamW: {_size(total)}; activations come on top.")
    for note in result.notes:
        out.print(f"Note: {note}.", soft_wrap=True)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        left = column in ("part", "component", "trains")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "component", overflow="fold")
    return table


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
