"""The training loop: short enough to read in one sitting, on `accelerate` for devices, precision and processes.

The loss's denominator is the number of supervised tokens of the whole global batch, counted before the first forward: the
same update comes out however the batch is split into micro-batches and processes.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import Tensor

from vlmzoo.assemble import build
from vlmzoo.checkpoint import require_space, save
from vlmzoo.config import Choice, Recipe, StageConfig, load_recipe
from vlmzoo.data import Collator, SampleStream
from vlmzoo.loss import supervised_count
from vlmzoo.model.vlm import VLM
from vlmzoo.training.optimization import make_optimizer, set_rates
from vlmzoo.training.progress import RunLog, StepProgress, parts_table
from vlmzoo.training.samples import Samples
from vlmzoo.training.trainable import check_gradients, set_trainable
from vlmzoo_registry import Catalogue, DataError, Dataset, Objective, PluginError, ResourceError, Sample, VlmzooError


class NotFiniteError(VlmzooError):
    """A loss or gradient that is no number; the run stops before the weights are touched."""

    exit_code = 3


@dataclass(frozen=True)
class TrainResult:
    """A trained model, where its checkpoint lies, and the loss of every step (nats per supervised token)."""

    model: VLM
    checkpoint: Path
    losses: tuple[float, ...]


def train(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    output: str | PathLike[str],
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
    console: Console | None = None,
) -> TrainResult:
    """Train the stage of a recipe; its checkpoint goes to `output/<stage>/checkpoint`, its log to `output/<stage>/log.jsonl`.

    Args:
        recipe: a `Recipe`, a mapping, or the path of a YAML file.
        output: the run's folder; a stage that it holds already is not trained over.
        overrides: dotted changes of the recipe, `stages.0.steps=100`.
        catalogue: where components come from; default: the installed ones.
        console: where progress is shown; default: nowhere.

    Raises `ConfigError`, `AssemblyError`, `DataError` before the first step where the recipe, its parts or its rows cannot be
    used, `NotFiniteError` naming the rows where a loss is no number, `ResourceError` where the output folder is taken.
    """
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, catalogue)
    stage = plan.stages[0]
    folder = Path(output) / stage.name
    if (folder / "checkpoint").exists():
        raise ResourceError(
            f"`{folder}` holds a finished stage already: choose another `--output`, or remove it to train again"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"`{folder}` cannot be made ({error}): choose another `--output`") from error
    set_seed(plan.seed)
    samples = Samples([_make(choice, Dataset) for choice in stage.data])
    model = build(plan.model, catalogue=catalogue)
    require_space(model, folder)
    return fit(model, plan, stage, samples, folder, console)


def fit(model: VLM, recipe: Recipe, stage: StageConfig, samples: Samples, folder: Path, console: Console | None) -> TrainResult:
    """Train a model for one stage and save it."""
    accelerator = _accelerator()
    shown = console if accelerator.is_main_process else None
    ranks, rank = accelerator.num_processes, accelerator.process_index
    if stage.micro_batch % ranks:
        raise ResourceError(f"`micro_batch` (={stage.micro_batch}) must be divisible by the {ranks} processes of this run")
    collate = make_collator(model, stage)
    states = set_trainable(model, {str(part): settings for part, settings in stage.train.items()})
    if shown is not None:
        shown.print(parts_table(states, _component_names(recipe)))
    optimizer = make_optimizer(states)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    stream = SampleStream(len(samples), stage.batch_size, seed=recipe.seed)
    steps = stage.steps or math.ceil((stage.epochs or 1) * len(samples) / stage.batch_size)
    trained = [parameter for state in states for parameter in state.trained.values()]
    # What a row without an image cannot reach; where there are several processes, each waits for all gradients of the others.
    of_images = [p for state in states if state.name != "language" for p in state.trained.values()] if ranks > 1 else []
    image_only = not any(state.trained for state in states if state.name == "language")
    checked = False
    losses: list[float] = []
    checkpoint = folder / "checkpoint"
    with StepProgress(shown, stage.name, steps) as progress, RunLog(folder, writes=accelerator.is_main_process) as log:
        for step in range(steps):
            began = time.perf_counter()
            rows = [samples[draw.index] for draw in stream.next_batch()]
            has_images = any(row.images for row in rows)
            if image_only and not has_images:
                raise DataError(
                    "a batch does not touch what trains (rows without an image, and only image parts train); mix in rows with "
                    f"images or train the language model: {_sources(rows)}"
                )
            micros = [rows[start : start + stage.micro_batch][rank::ranks] for start in range(0, len(rows), stage.micro_batch)]
            batches = [_to(collate(micro), accelerator.device) for micro in micros]
            counts = [supervised_count(batch["labels"], weights=batch.get("weights")) for batch in batches]
            tokens = accelerator.reduce(torch.stack(counts).sum(), reduction="sum")
            # Gradients are averaged over processes: a denominator smaller by their number makes the average a sum.
            denominator = tokens / ranks
            rates = set_rates(optimizer, states, step, steps, stage.warmup, stage.schedule)
            parts = []
            for number, batch in enumerate(batches):
                last = number + 1 == len(batches)
                with nullcontext() if last else accelerator.no_sync(wrapped):
                    parts.append(_forward_backward(accelerator, wrapped, batch, denominator, stage.precision, of_images))
            if has_images and not checked:
                check_gradients(states)
                checked = True
            for parameter in trained:
                # Not reached by this batch: 0, as it is where another process or micro-batch had reached it.
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            norm = float(accelerator.clip_grad_norm_(trained, stage.clip))
            loss = float(accelerator.reduce(torch.stack(parts).sum(), reduction="sum")) / ranks
            if not (math.isfinite(loss) and math.isfinite(norm)):
                # Those of the micro-batches that are to blame, or all where only the gradient is.
                blamed = [row for part, micro in zip(parts, micros, strict=True) if not part.isfinite() for row in micro]
                raise NotFiniteError(
                    f"step {step}: the loss is {loss} and the gradient's norm {norm}; the weights are untouched. "
                    f"Lower the learning rate, or look at these rows: {_sources(blamed or rows)}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss)
            progress.advance(loss)
            if step % stage.log_every == 0 or step + 1 == steps:
                log.write(
                    {
                        "step": step,
                        "loss": loss,
                        "gradient_norm": norm,
                        "lr": rates,
                        "tokens": int(tokens),
                        "epoch": stream.state.epoch,
                        "seconds": round(time.perf_counter() - began, 4),
                    }
                )
        model.eval()
        extra = {"stage": stage.name, "recipe_sha256": recipe_digest(recipe), "parent": None}
        save(model, checkpoint, extra=extra, is_main_process=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    return TrainResult(model, checkpoint, tuple(losses))


def _accelerator() -> Accelerator:
    """The device, and the processes that were started together.

    Raises `ResourceError` where they do not find each other: each would train alone and write over the others.
    """
    # Without `cpu`, processes on a machine without an accelerator would each train alone. Precision is chosen where the
    # forward runs: accelerate would keep its choice for the rest of the process.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise ResourceError(
            f"{started} processes were started together (WORLD_SIZE), but accelerate has joined {accelerator.num_processes}: "
            "start them with `accelerate launch` or `torchrun`, and import nothing before that makes an `Accelerator`"
        )
    return accelerator


def _forward_backward(
    accelerator: Accelerator,
    wrapped: Any,
    batch: dict[str, Tensor],
    denominator: Tensor,
    precision: Literal["float32", "bf16"],
    of_images: Sequence[Tensor],
) -> Tensor:
    """The share of a micro-batch in the loss; its gradients are added to those that are there."""
    weights = batch.pop("weights", None)
    with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss: Tensor = wrapped(**batch, loss_weights=weights, num_items_in_batch=denominator).loss
    share = loss.detach()
    if "pixel_values" not in batch:
        for parameter in of_images:
            loss = loss + 0 * parameter.flatten()[0]
    if loss.requires_grad:
        accelerator.backward(loss)
    return share


def _make(choice: Choice, contract: type) -> Any:
    made = choice.component.load_factory()(choice.config)
    if not isinstance(made, contract):
        raise PluginError(f"`{choice.component.full_name}` makes a {type(made).__name__}, not a {contract.__name__}")
    return made


def make_collator(model: VLM, stage: StageConfig) -> Collator:
    """What turns the samples of a stage into batches for this model, to train on or to ask about."""
    return Collator(
        objective=_make(stage.objective, Objective),
        template=model.processor.template,
        tokenizer=model.processor.tokenizer,
        image_token=model.processor.image_token,
        transform=model.processor.transform,
        max_length=_max_length(model),
    )


def _max_length(model: VLM) -> int:
    """What the language model has positions for; a model without a stated limit takes any length."""
    limit = getattr(model.language.text_config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else 1_000_000


def _component_names(recipe: Recipe) -> dict[str, str]:
    section = recipe.model
    chain = " + ".join(choice.component.full_name for choice in section.connector)
    return {
        "vision": section.vision.component.full_name,
        "connector": chain,
        "language": section.language.component.full_name,
    }


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _sources(rows: Sequence[Sample]) -> str:
    shown = [row.source for row in rows[:8]]
    return ", ".join(shown) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")


def recipe_digest(recipe: Recipe) -> str:
    """The SHA-256 of a whole recipe, which its checkpoints record."""
    return hashlib.sha256(json.dumps(recipe.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
