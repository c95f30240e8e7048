"""`vlmzoo plan`: check a recipe before anything is downloaded or trained."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json

WHERE = {
    "unified": "all of them in the text",
    "cross_attention": "outside the text",
    "hybrid": "those of the whole image in the text",
}
"""Where the tokens of an image stand in each architecture."""


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
    from vlmzoo.activations import TEXT_TOKENS
    from vlmzoo.planning import plan as check

    result = check(recipe, overrides=overrides or ())
    if as_json:
        print_json(result.to_dict())
        return
    out = console()
    counts = [size.image_tokens for size in result.sizes] or [result.image_tokens]
    span = str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    out.print(Text(f"{result.architecture}, {span} tokens per image", "bold"), end="")
    out.print(f", {WHERE[result.architecture]}")
    steps = Table.grid(padding=(0, 1, 0, 0))
    for number, step in enumerate(result.steps):
        steps.add_row("  ->" if number else "    ", Text(step))
    out.print(steps)
    if result.sizes:
        out.print()
        table = _table("image", "views", "tokens", "in the text")
        for size in result.sizes:
            table.add_row(size.image, str(size.views), f"{size.image_tokens:,}", f"{size.text_slots:,}")
        out.print(table)
    out.print()
    table = _table("part", "component", "parameters", "weights")
    for part in result.parts:
        table.add_row(part.part, part.component.replace(" + ", "\n+ "), f"{part.parameters:,}", _size(part.weight_bytes))
    out.print(table)
    weights = sum(part.weight_bytes for part in result.parts)
    for stage in result.stages:
        table = _table("part", "trains", "parameters", "training adds", title=f"Stage `{stage.name}`")
        for row in stage.parts:
            table.add_row(row.part, row.trains, f"{row.trained:,}", _size(row.training_bytes))
        out.print()
        out.print(table)
        total = weights + sum(row.training_bytes for row in stage.parts)
        out.print(f"Memory for weights, gradients and AdamW: {_size(total)}.")
        several = "s" * (stage.micro_batch != 1)
        seen = f"{stage.micro_batch} sample{several} of one image and {TEXT_TOKENS} tokens of text"
        if stage.piece_tokens is not None:
            seen = f"{stage.micro_batch} piece{several} of {stage.piece_tokens:,} tokens"
        out.print(f"Activations come on top: very roughly {_size(stage.activation_bytes)} for {seen}, without recomputation.")
        if stage.cached_bytes is not None:
            each, thousand = _size(stage.cached_bytes), _size(1000 * stage.cached_bytes)
            out.print(f"Kept features take about {each} of disk per image ({thousand} for 1,000).")
    if result.notes:
        out.print()
    for note in result.notes:
        out.print(f"Note: {note}.")


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        left = column in ("part", "component", "trains")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "component", overflow="fold")
    return table


def _size(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
