"""`vlmzoo quickstart`: train a small model on real images and see what it says."""

from pathlib import Path
from typing import Annotated

import typer

from vlmzoo.cli.console import console


def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes of its recipe, such as `stages.0.steps=300`.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the run.")] = Path("runs/quickstart"),
) -> None:
    """Train a small model on real images and see what it says.

    Joins a pretrained EfficientNet-Lite0 and SmolLM2-135M-Instruct by a connector, trains that on named pictures, and asks
    about pictures it never saw. Both parts come from installed packages; nothing is downloaded.
    """
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.quickstart.run import quickstart as run
    from vlmzoo.quickstart.run import show

    quiet_frameworks()
    screen = console()
    result = run(output, overrides=overrides or (), console=screen)
    screen.print()
    show(result, screen)
    screen.print()
    screen.print("Let it name a picture of yours:", style="bold")
    screen.print(f"vlmzoo generate {result.checkpoint} --image FILE --prompt 'What is this?'", soft_wrap=True)
