"""`vlmzoo train`: train the stages of a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from vlmzoo.cli.console import console


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes of the recipe, such as `stages.0.steps=100`.", show_default=False)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the run.")] = Path("runs/latest"),
) -> None:
    """Train the stages of a recipe.

    Shows what trains, then the progress; writes `log.jsonl` and a checkpoint into the folder of the stage.
    """
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.training.train import train as run

    quiet_frameworks()
    screen = console()
    result = run(recipe, output=output, overrides=overrides or (), console=screen)
    screen.print(f"Loss {result.losses[0]:.3f} -> {result.losses[-1]:.3f} in {len(result.losses)} steps.")
    screen.print(f"Checkpoint: {result.checkpoint}", soft_wrap=True)
