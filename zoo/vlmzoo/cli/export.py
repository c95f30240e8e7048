"""`vlmzoo export`: a checkpoint as a folder that plain transformers loads."""

from pathlib import Path
from typing import Annotated

import typer

from vlmzoo.cli.console import console, print_json


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False,
) -> None:
    """Give a checkpoint to transformers: model and processor as the class that can express it.

    Weights are copied one to one, and an image with a question goes through both models: without the same logits nothing is
    written. Where no class can express the model, every reason is said.
    """
    from vlmzoo.checkpoint import load
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.exchange.export import to_transformers

    quiet_frameworks()
    exported = to_transformers(load(checkpoint))
    exported.save_pretrained(folder)
    name = type(exported.model).__name__
    if as_json:
        print_json({"folder": str(folder), "class": name, "difference": exported.difference})
        return
    out = console()
    out.print(f"{name} in {folder}: the same logits" + (f", but for {exported.difference:.1e}" if exported.difference else ""))
    out.print("To load it:")
    out.print(f'  AutoModelForImageTextToText.from_pretrained("{folder}")', soft_wrap=True)
    out.print(f'  AutoProcessor.from_pretrained("{folder}")', soft_wrap=True)
