"""`vlmzoo quickstart`: train a small model on real images and see what it says."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlmzoo.cli.console import console


def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes of its recipe, such as `stages.0.steps=300`.", show_default=False),
    ] = None,
    architecture: Annotated[
        Literal["unified", "cross_attention"],
        typer.Option("--architecture", "-a", help="How image and text meet; everything else stays equal."),
    ] = "unified",
    seed: Annotated[int, typer.Option("--seed", help="What every random draw starts from.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The folder of the run; default: one under `runs` for each architecture and seed."),
    ] = None,
) -> None:
    """Train a small model on real images and see what it says.

    Joins a pretrained EfficientNet-Lite0 and SmolLM2-135M-Instruct, trains them on named pictures in two drawing styles, and
    asks about things and a style it never saw. All comes from installed packages; nothing is downloaded. A run that was
    stopped goes on with the same command.
    """
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.quickstart.report import show
    from vlmzoo.quickstart.run import REPORT
    from vlmzoo.quickstart.run import quickstart as run

    quiet_frameworks()
    screen = console()
    folder = output or Path("runs") / f"quickstart-{architecture}-seed{seed}"
    result = run(folder, overrides=[f"model.architecture={architecture}", f"seed={seed}", *(overrides or ())], console=screen)
    screen.print()
    show(result, screen)
    screen.print()
    screen.print(f"The report, with pictures: {folder / REPORT}", style="bold", soft_wrap=True)
    screen.print("Let it name a picture of yours:", style="bold")
    screen.print(f"vlmzoo generate {result.checkpoint} --image FILE --prompt 'What is this?'", soft_wrap=True)
