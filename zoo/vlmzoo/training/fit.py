"""The training loop of one stage: short enough to read in one sitting, on `accelerate` for devices and processes.

A stage that is killed goes on from its last saved point, and ends with the weights of one that never stopped.
"""

import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.console import Console

from vlmzoo.assemble import use_template
from vlmzoo.checkpoint import Unchanged, save
from vlmzoo.config import Recipe, StageConfig
from vlmzoo.feature_cache.prepare import drawn_indexes, prepare_features
from vlmzoo.model.vlm import VLM
from vlmzoo.objectives import standing
from vlmzoo.training.audit import Audit
from vlmzoo.training.batching import batching_record, refuse_steps_without_image, stage_lengths, stage_stream
from vlmzoo.training.draws import seed_draws
from vlmzoo.training.history import AUDIT, END, STEP, RunLog
from vlmzoo.training.interruption import Interruption
from vlmzoo.training.loader import StepLoader
from vlmzoo.training.memory import explained_shortage, peak_memory
from vlmzoo.training.observer import Observer, observed
from vlmzoo.training.optimization import make_optimizer, optimizer_tensors, restore_optimizer, set_rates
from vlmzoo.training.plot import write_loss_plot
from vlmzoo.training.processes import agreed, exchanged_here, share_here
from vlmzoo.training.progress import StepProgress, component_names, parts_rows, parts_table
from vlmzoo.training.run_folder import CHECKPOINT, RESUME, recipe_digest
from vlmzoo.training.samples import Samples, make_collator
from vlmzoo.training.save_schedule import SaveSchedule
from vlmzoo.training.state import Point, Progress, save_point
from vlmzoo.training.trainable import set_trainable
from vlmzoo.training.update import GlobalBatch, sources
from vlmzoo.versions import versions
from vlmzoo_registry import CheckpointError, VlmzooError


class NotFiniteError(VlmzooError):
    """A loss or gradient that is no number; the run stops before the weights are touched."""

    exit_code = 3


@dataclass(frozen=True)
class StageResult:
    """A finished stage: where its checkpoint lies, the loss of every step (nats per supervised token), and what it took.

    `tokens` are the supervised ones, `images` those shown, `seconds` those inside of optimizer steps.
    """

    name: str
    checkpoint: Path
    losses: tuple[float, ...]
    tokens: int
    images: int
    seconds: float


@dataclass(frozen=True)
class Origin:
    """Where a stage begins: the folder of a whole checkpoint that the model equals, and what to go on with.

    `checkpoint` is None for a model that was just built, `parent` is the digest of the stage before, `point` None at the
    beginning of a stage.
    """

    checkpoint: Path | None = None
    parent: str | None = None
    point: Point | None = None


def fit(
    model: VLM,
    recipe: Recipe,
    stage: StageConfig,
    samples: Samples,
    folder: Path,
    console: Console | None,
    *,
    accelerator: Accelerator,
    origin: Origin,
    observer: Observer | None = None,
) -> StageResult:
    """Train a model for one stage and save it to `folder/checkpoint`; the model is then in evaluation mode.

    Raises `DataError`, `AssemblyError`, `NotFiniteError`, `ResourceError` as `train` does. A signal ends it after the step that
    is under way, once that is saved.
    """
    main = accelerator.is_main_process
    shown = console if main else None
    seed_draws(recipe.seed, stage.name, "begin")  # adapters start at random
    use_template(model, stage.template or recipe.model.template)
    states = set_trainable(model, {str(part): settings for part, settings in stage.train.items()})
    rows_of_parts = parts_rows(states, component_names(recipe))
    if shown is not None:
        shown.print(parts_table(stage.name, rows_of_parts))
    optimizer = make_optimizer(states)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    update = GlobalBatch(accelerator, wrapped, states, stage)
    fingerprint = samples.fingerprint()
    done = Progress()
    if origin.point is not None:
        if origin.point.samples != fingerprint:
            raise CheckpointError(
                f"`{folder / RESUME}` was saved with other data than `data` names now: put the data back as it was, or remove "
                f"`{folder}` to train the stage again"
            )
        done = origin.point.progress
        restore_optimizer(optimizer, states, origin.point.optimizer)
    collate = make_collator(model, stage, seed=recipe.seed)
    rows_stand = standing(stage, collate.objective, model.language, model.config.model["language"]["name"]).said
    lengths = stage_lengths(recipe, stage, samples, collate, folder, accelerator=accelerator, console=shown)
    order = None if lengths is None else lengths.digest()
    if origin.point is not None and origin.point.lengths not in (None, order):  # one of an earlier version says none
        raise CheckpointError(
            f"`{folder / RESUME}` was saved when the rows had other lengths than now, and the order that `batching` makes of "
            "them would leave samples out and show others twice: put the data back as it was, or remove "
            f"`{folder}` to train the stage again"
        )
    stream = stage_stream(stage, samples, collate, lengths, seed=recipe.seed, state=done.stream)
    steps = stage.steps or stream.batches(stage.epochs or 1)
    if update.image_only and lengths is not None:
        refuse_steps_without_image(stage, samples, lengths, stream, steps)
    trained = [parameter for state in states for parameter in state.trained.values()]
    extra = {"stage": stage.name, "recipe_sha256": recipe_digest(recipe), "parent": origin.parent}
    header = {
        **extra,
        "steps": steps,
        "samples": len(samples),
        "notes": samples.notes,
        "left_out": [{"row": fault.place, "reason": fault.reason} for fault in samples.left_out],
        "batch_size": stage.batch_size,
        "batching": batching_record(stage, rows_stand, lengths, stream),
        "label_smoothing": stage.label_smoothing,
        "z_loss": stage.z_loss,
        "processes": accelerator.num_processes,
        "parts": rows_of_parts,
        "versions": versions(model),
    }
    still = tuple(state.name for state in states if not state.changes_base)  # parts whose own tensors stay as they are
    whole = origin.checkpoint  # a checkpoint in which these parts are as they are now

    def unchanged() -> Unchanged | None:
        return None if whole is None else Unchanged(whole, still)

    images = None
    if stage.cache_features:
        with explained_shortage(f"stage `{stage.name}`, encoding images", stage.micro_batch):
            images = prepare_features(
                model,
                samples,
                drawn_indexes(stream, steps - done.step),
                stage=stage.name,
                precision=stage.precision,
                batch_size=stage.micro_batch,
                threads=stage.workers,
                share=share_here(accelerator),
                exchange=lambda mine: exchanged_here(accelerator, mine),
                wait=accelerator.wait_for_everyone,
                console=shown,
            )
    loader = StepLoader(
        samples,
        collate if images is None else make_collator(model, stage, seed=recipe.seed, images=images),
        stream,
        steps=steps - done.step,
        micro_batch=stage.micro_batch,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
        workers=stage.workers,
        lengths=lengths,
    )
    audit = Audit(model, states, optimizer, origin.point.audit if origin.point is not None else None)
    with (
        Interruption() as interruption,
        StepProgress(shown, stage.name, steps, done.step) as progress,
        RunLog(folder, header, step=done.step, writes=main) as log,
        loader,
    ):
        points = SaveSchedule(stage.save_every, stage.save_minutes)
        for step in range(done.step, steps):
            if observer is not None and main:
                with observed(model):
                    observer(model, step)
            began = time.perf_counter()
            rates = set_rates(prepared, states, step, steps, stage.warmup, stage.schedule)
            with explained_shortage(f"stage `{stage.name}`, step {step}", stage.micro_batch):
                batch = loader.next_step()
                seed_draws(recipe.seed, stage.name, step, accelerator.process_index)
                gradients = update.backward(batch.micros)
                audit.after_backward(step, has_images=gradients.images > 0)
                for parameter in trained:
                    # Not reached by this batch: 0, as it is where another process or micro-batch had reached it.
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                norm = float(accelerator.clip_grad_norm_(trained, stage.clip))
                if not (math.isfinite(gradients.loss) and math.isfinite(norm)):
                    raise NotFiniteError(
                        f"step {step}: the loss is {gradients.loss} and the gradient's norm {norm}; the weights are untouched. "
                        f"Lower the learning rate, or look at these rows: {sources(gradients.blamed or batch.micros)}"
                    )
                prepared.step()
                audit.after_step(step, rates)
                prepared.zero_grad(set_to_none=True)
            seconds = time.perf_counter() - began
            done.stream = batch.state
            done.losses.append(gradients.loss)
            done.tokens += gradients.tokens
            done.cut += gradients.cut
            done.images += gradients.images
            done.seconds += seconds
            progress.advance(gradients.loss, seconds)
            if step % stage.log_every == 0 or step + 1 == steps:
                log.write(
                    STEP,
                    {
                        "step": step,
                        "loss": gradients.loss,
                        "nll": gradients.nll,
                        "z": gradients.z,
                        "gradient_norm": norm,
                        "lr": rates,
                        "tokens": gradients.tokens,
                        "tokens_seen": done.tokens,
                        "images_seen": done.images,
                        "rows_cut": done.cut,
                        "epoch": batch.state.epoch,
                        "seconds": round(seconds, 4),
                        "peak_memory": peak_memory(),
                    },
                )
            stop, due = agreed(accelerator, interruption.number, int(main and points.due(step + 1)))
            if step + 1 < steps and (stop or due):
                with points.saving():
                    audit.finish()  # files of parts that did not move are linked: they must not have
                    if main:
                        point = Point(done, optimizer_tensors(optimizer, states), fingerprint, audit.state(), order)
                        save_point(model, folder / RESUME, point, extra=extra, unchanged=unchanged())
                whole = folder / RESUME
                progress.saved()
                if stop:
                    interruption.leave(stop)
        audit.finish()
        model.eval()
        # In the words of the stage's beginning: a run that was taken up finds adapters merged already.
        trains = {row["part"]: row["trains"] for row in log.header["parts"]}
        log.write(AUDIT, {"rows": [{**row, "trains": trains[row["part"]]} for row in audit.rows()]})
        log.write(
            END,
            {
                "losses": done.losses,
                "tokens": done.tokens,
                "images": done.images,
                "rows_cut": done.cut,
                "seconds": round(done.seconds, 3),
            },
        )
        save(model, folder / CHECKPOINT, extra=extra, unchanged=unchanged(), is_main_process=main)
        if main:
            shutil.rmtree(folder / RESUME, ignore_errors=True)
            write_loss_plot(folder)
        progress.saved()
        if shown is not None:
            shown.print(audit.table())
        accelerator.wait_for_everyone()
        if interruption.number:
            interruption.leave(interruption.number)
    return StageResult(stage.name, folder / CHECKPOINT, tuple(done.losses), done.tokens, done.images, done.seconds)
