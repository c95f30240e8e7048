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
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the run; it belongs to one recipe.")] = Path(
        "runs/latest"
    ),
) -> None:
    """Train the stages of a recipe, one after the other.

    Shows what trains, then the progress. The folder of each stage gets `checkpoint/`, `log.jsonl` and `loss.svg`.

    A run that was stopped, however it was, goes on with the same command, and ends with the weights of one that never
    stopped. Ctrl-C (or SIGTERM) finishes the step that is under way and saves it; a second one stops at once, and at most the
    steps since the last save (`save_every`, `save_minutes`) are made again.
    """
    from vlmzoo.cli.quiet import quiet_frameworks
    from vlmzoo.training.train import train as run

    quiet_frameworks()
    screen = console()
    result = run(recipe, output=output, overrides=overrides or (), console=screen)
    for stage in result.stages:
        name = f"Stage `{stage.name}`: loss" if len(result.stages) > 1 else "Loss"
        screen.print(f"{name} {stage.losses[0]:.3f} -> {stage.losses[-1]:.3f} in {len(stage.losses)} steps.")
    screen.print(f"Checkpoint: {result.checkpoint}", soft_wrap=True)
