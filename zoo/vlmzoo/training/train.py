"""`train`: the stages of a recipe, one after the other, taken up where an earlier call of the same run was stopped."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from rich.console import Console

from vlmzoo.assemble import build
from vlmzoo.checkpoint import load, require_space
from vlmzoo.config import Recipe, StageConfig, load_recipe
from vlmzoo.durable import tidy
from vlmzoo.exits import refuses_exit
from vlmzoo.manifest import read_manifest
from vlmzoo.model.vlm import VLM
from vlmzoo.training.fit import NotFiniteError, Origin, StageResult, fit
from vlmzoo.training.history import read_log
from vlmzoo.training.observer import Observer
from vlmzoo.training.plot import PLOT, write_loss_plot
from vlmzoo.training.processes import join_processes
from vlmzoo.training.run_folder import CHECKPOINT, RESUME, claim, earlier_digest, recipe_digest
from vlmzoo.training.samples import make_collator, stage_samples
from vlmzoo.training.state import read_point
from vlmzoo_registry import Catalogue, CheckpointError, ResourceError

__all__ = ["NotFiniteError", "StageResult", "TrainResult", "make_collator", "recipe_digest", "train"]


@dataclass(frozen=True)
class TrainResult:
    """A trained model, and what each stage of it came to."""

    model: VLM
    stages: tuple[StageResult, ...]

    @property
    def checkpoint(self) -> Path:
        """Where the model lies: the last stage's checkpoint."""
        return self.stages[-1].checkpoint

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of every step of every stage (nats per supervised token)."""
        return tuple(loss for stage in self.stages for loss in stage.losses)

    @property
    def tokens(self) -> int:
        """How many supervised tokens were learnt from, over all stages."""
        return sum(stage.tokens for stage in self.stages)

    @property
    def images(self) -> int:
        """How many images were shown, over all stages."""
        return sum(stage.images for stage in self.stages)

    @property
    def seconds(self) -> float:
        """The time inside of optimizer steps, over all stages."""
        return sum(stage.seconds for stage in self.stages)


@refuses_exit
def train(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    output: str | PathLike[str],
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
    console: Console | None = None,
    observer: Observer | None = None,
) -> TrainResult:
    """Train the stages of a recipe, each from the last one's checkpoint.

    A stage leaves `output/<stage>/checkpoint` (what `vlmzoo.load` reads), `log.jsonl` and `loss.svg`. A run that was stopped,
    however, goes on when it is called again, and ends with the weights of one that never stopped (on CPU to the last bit);
    a run that is finished is only loaded.

    Args:
        recipe: a `Recipe`, a mapping, or the path of a YAML file.
        output: the run's folder; it belongs to one recipe.
        overrides: dotted changes of the recipe, `stages.0.steps=100`.
        catalogue: where components come from; default: the installed ones.
        console: where progress is shown; default: nowhere.
        observer: called before each step with the model and how many steps of its stage are done, in the first process. What it
            does to modes and random generators is undone; it must not touch the weights.

    Raises `ConfigError`, `AssemblyError`, `DataError` before the first step where the recipe, its parts or its rows cannot be
    used, `NotFiniteError` naming the rows where a loss is no number, `CheckpointError` where what is to be taken up is damaged,
    `ResourceError` where the output folder is another recipe's, or disk or memory do not suffice.
    """
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, catalogue)
    root = Path(output)
    accelerator = join_processes()
    if accelerator.is_main_process:
        for stage in plan.stages:
            for name in (CHECKPOINT, RESUME):
                tidy(root / stage.name / name)
    accelerator.wait_for_everyone()
    claim(root, plan, writes=accelerator.is_main_process)
    finished = 0
    while finished < len(plan.stages) and (root / plan.stages[finished].name / CHECKPOINT).is_dir():
        finished += 1
    results = [_finished(root / stage.name, writes=accelerator.is_main_process) for stage in plan.stages[:finished]]
    for result in results:
        _say(console if accelerator.is_main_process else None, f"Stage `{result.name}` is finished: {result.checkpoint}")
    # Read by every process before the first may write.
    accelerator.wait_for_everyone()
    set_seed(plan.seed)
    data = {stage.name: stage_samples(stage) for stage in plan.stages[finished:]}
    model, origin = _begin(plan, root, results, catalogue)
    for stage in plan.stages[finished:]:
        # A style that the tokenizer cannot write is refused before anything trains.
        collate = make_collator(model, stage, seed=plan.seed)
        if stage.on_bad_row == "skip":
            data[stage.name] = stage_samples(stage, collate, console if accelerator.is_main_process else None)
        for note in data[stage.name].said():
            _say(console if accelerator.is_main_process else None, f"Stage `{stage.name}`: {note}")
    for number, stage in enumerate(plan.stages[finished:]):
        folder = root / stage.name
        require_space(model, folder)
        if number:
            accelerator.free_memory()  # what was prepared for the stage before
        result = fit(
            model, plan, stage, data[stage.name], folder, console, accelerator=accelerator, origin=origin, observer=observer
        )
        results.append(result)
        origin = Origin(result.checkpoint, read_manifest(result.checkpoint).sha256)
    return TrainResult(model, tuple(results))


def _begin(plan: Recipe, root: Path, results: Sequence[StageResult], catalogue: Catalogue | None) -> tuple[VLM, Origin]:
    """The model as it was when the run was stopped, and where the next stage goes on."""
    last = results[-1].checkpoint if results else None
    parent = None if last is None else read_manifest(last).sha256
    if len(results) < len(plan.stages):
        resume = root / plan.stages[len(results)].name / RESUME
        if resume.is_dir():
            try:
                model = load(resume, catalogue=catalogue)
                _check_origin(resume, plan, plan.stages[len(results)], parent)
                return model, Origin(resume, parent, read_point(resume))
            except CheckpointError as error:
                raise CheckpointError(
                    f"the run cannot go on from `{resume}`: {error.message}; remove `{resume}` to train the stage from its "
                    "beginning",
                    error.reasons,
                ) from error
    if last is None:
        return build(plan.model, catalogue=catalogue), Origin()
    try:
        return load(last, catalogue=catalogue), Origin(last, parent)
    except CheckpointError as error:
        raise CheckpointError(
            f"the finished stage cannot be used: {error.message}; remove `{last.parent}` to train it again", error.reasons
        ) from error


def _check_origin(resume: Path, plan: Recipe, stage: StageConfig, parent: str | None) -> None:
    """Refuse a point of another run that lies where this one's should: the folder was put together by hand."""
    wanted = {"stage": stage.name, "recipe_sha256": recipe_digest(plan), "parent": parent}
    extra = read_manifest(resume).extra
    if extra.get("recipe_sha256") == earlier_digest(plan):
        del wanted["recipe_sha256"]
    reasons = [f"`{key}`: {extra.get(key)} there, {value} here" for key, value in wanted.items() if extra.get(key) != value]
    if reasons:
        raise CheckpointError(
            "it was saved by another run, or by an earlier version with another `save_every` or `log_every`, which it cannot "
            "go on without",
            reasons,
        )


def _finished(folder: Path, *, writes: bool) -> StageResult:
    """What a stage came to that an earlier call has finished; what that was killed before is done now."""
    if writes:
        shutil.rmtree(folder / RESUME, ignore_errors=True)
    end = read_log(folder).end
    if end is None:
        raise ResourceError(
            f"`{folder}` holds a finished stage, but not the end of its log: put its `log.jsonl` back, or remove the folder to "
            "train the stage again"
        )
    if writes and not (folder / PLOT).exists():
        write_loss_plot(folder)
    losses = tuple(end["losses"])
    return StageResult(folder.name, folder / CHECKPOINT, losses, end["tokens"], end["images"], end["seconds"])


def _say(console: Console | None, line: str) -> None:
    if console is not None:
        console.print(line, soft_wrap=True)
