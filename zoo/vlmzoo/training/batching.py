"""Which samples a stage brings together, and in what order, as its `batching` says; what looks at lengths is told them here."""

from itertools import chain
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console

from vlmzoo.config import Recipe, StageConfig
from vlmzoo.data import BatchStream, Collator, StreamState
from vlmzoo.data.grouping import Budget, Grouped, sorting_buffer
from vlmzoo.data.lengths import LENGTHS, Lengths, Rows, refuse_longer, sample_lengths
from vlmzoo.data.packing import Packed
from vlmzoo.data.stream import Order, Permutation
from vlmzoo.passing_bar import passing_bar
from vlmzoo.shortened import enumerated
from vlmzoo.training.update import WITHOUT_IMAGE, advice_without_image
from vlmzoo_registry import DataError, ResourceError


def stage_stream(
    stage: StageConfig, rows: Rows, collate: Collator, lengths: Lengths | None, *, seed: int, state: StreamState | None = None
) -> BatchStream:
    """The batches of a stage, which go on at `state`. `lengths` are needed where its batching looks at them.

    Raises `DataError` naming the samples that are longer than a piece may be.
    """
    return BatchStream(_order(stage, rows, collate, lengths, seed), stage.batch_size, state=state)


def _order(stage: StageConfig, rows: Rows, collate: Collator, lengths: Lengths | None, seed: int) -> Order:
    batching = stage.batching
    if not batching.by_length:
        return Permutation(len(rows), seed=seed)
    assert lengths is not None, "`by_length` says that they are needed"
    refuse_longer(lengths, rows, max_tokens=batching.max_tokens, max_images=batching.max_images)
    budget = None
    if batching.max_tokens is not None:
        budget = Budget(batching.max_tokens, batching.max_images, padded=not collate.flatten)
        if batching.mode == "pack":
            buffer = batching.buffer or 1000
            return Packed(lengths, budget=budget, group=stage.micro_batch, buffer=buffer, seed=seed)
    buffer = batching.buffer or sorting_buffer(lengths, stage.micro_batch, budget)
    return Grouped(lengths, by=batching.group_by, budget=budget, group=stage.micro_batch, buffer=buffer, seed=seed)


def stage_lengths(
    recipe: Recipe,
    stage: StageConfig,
    rows: Rows,
    collate: Collator,
    folder: Path,
    *,
    accelerator: Accelerator,
    console: Console | None,
) -> Lengths | None:
    """The lengths of a stage's samples where its batching looks at them, measured once and kept in the stage's `folder`.

    Each process measures a share, so that none waits long for another; the main one keeps them.

    Raises `DataError` with the rows that cannot be used, `ResourceError` where a forward pass would exceed its budget (see
    `refuse_wider`) and where the file cannot be written.
    """
    if not stage.batching.by_length:
        return None
    refuse_wider(stage, collate, accelerator.num_processes)
    told = {
        "model": recipe.model.dump(),
        **stage.model_dump(mode="json", include={"objective", "template", "max_length", "too_long"}),
    }
    share = accelerator.process_index, accelerator.num_processes
    with passing_bar(console) as bar:
        task = bar.add_task(f"{stage.name}: measuring", total=len(range(share[0], len(rows), share[1])))
        return sample_lengths(
            rows,
            collate,
            kept=folder / LENGTHS,
            told=told,
            advance=lambda: bar.advance(task),
            share=share,
            exchange=lambda mine: gather_object([mine]),
        )


def refuse_wider(stage: StageConfig, collate: Collator, processes: int) -> None:
    """Raise `ResourceError` where a forward pass would hold more than `max_tokens`.

    Padded rows are as long as the longest of their forward pass, so several pieces together are more than their sum.
    """
    pieces = stage.micro_batch // processes
    if stage.batching.max_tokens is None or collate.flatten or pieces <= 1:
        return
    raise ResourceError(
        f"stage `{stage.name}`: `batching.max_tokens` (={stage.batching.max_tokens}) says what a piece may hold, and a forward "
        f"pass here has {pieces} of them, all padded to its longest row: set `micro_batch` (={stage.micro_batch}) to "
        f"{processes}, the number of processes, or let rows stand one after the other (`mode: flatten`) where the language "
        "model can"
    )


def refuse_steps_without_image(stage: StageConfig, rows: Rows, lengths: Lengths, stream: BatchStream, steps: int) -> None:
    """Raise `DataError` where a step of the first epoch has no image: for a stage that trains image parts alone."""
    pieces = stream.order.pieces(0, 0)
    for step in range(min(steps, len(pieces) // stage.batch_size)):
        seen = list(chain.from_iterable(pieces[step * stage.batch_size : (step + 1) * stage.batch_size]))
        if not any(lengths.images[index] for index in seen):
            found = enumerated([rows[index].source for index in seen], 8)
            raise DataError(f"step {step}: {WITHOUT_IMAGE}; {advice_without_image(stage)}: {found}")


def batching_record(stage: StageConfig, said: str, lengths: Lengths | None, stream: BatchStream) -> dict[str, Any]:
    """What the log says of a stage's batches: its batching, also in words, and where lengths are known their sums."""
    record: dict[str, Any] = {**stage.batching.dump(), "said": said}
    if lengths is not None:
        pieces = stream.order.pieces(0, 0)
        record |= {"tokens": sum(lengths.tokens), "views": sum(lengths.images), "pieces": len(pieces)}
    return record
