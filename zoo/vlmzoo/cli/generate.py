"""`vlmzoo generate`: let a checkpoint speak about an image."""

from pathlib import Path
from typing import Annotated

import typer


def generate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.", show_default=False)],
    image: Annotated[
        list[Path] | None, typer.Option("--image", "-i", help="An image file; repeat for several.", show_default=False)
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="What the user says; `<image>` marks the images, default: before it.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens at most.")] = 32,
) -> None:
    """Let a checkpoint speak about an image.

    Prints the text that the model continues with, greedily.
    """
    from vlmzoo.checkpoint import load
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.say import say
    from vlmzoo_registry.images import open_image

    quiet_frameworks()
    model = load(checkpoint)
    images = [open_image(path, where="--image") for path in image or []]
    batch = model.processor(text=prompt, images=images)
    typer.echo(say(model, batch, max_new_tokens)[0])
