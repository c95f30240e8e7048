"""The point from which a stage that was killed goes on: a checkpoint, with the optimizer and the position in the data beside.

Tensors are safetensors, the rest is JSON; nothing is pickled. No state of a random generator is kept: draws are keyed by the
step (`vlmzoo.training.draws`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmzoo.checkpoint import Unchanged, save
from vlmzoo.data import StreamState
from vlmzoo.manifest import read_json, write_json
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import CheckpointError

TENSORS, POSITION = "training.safetensors", "training.json"

Count = Annotated[int, Field(ge=0)]


@dataclass
class Progress:
    """How far a stage has come: the loss of each step done (nats per supervised token), and what they took.

    `stream` is where the next batch is drawn, `tokens` are the supervised ones, `cut` the rows that were too long and cut,
    `seconds` those inside of the steps.
    """

    stream: StreamState = field(default_factory=StreamState)
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    images: int = 0
    cut: int = 0
    seconds: float = 0.0

    @property
    def step(self) -> int:
        """How many optimizer steps are done."""
        return len(self.losses)


class _Position(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    format: int
    step: Count
    epoch: Count
    position: Count
    tokens: Count
    images: Count
    cut: Count = 0
    seconds: Annotated[float, Field(ge=0)]
    losses: list[float]
    samples: str
    lengths: str | None = None
    audit: dict[str, Any]


@dataclass(frozen=True)
class Point:
    """What was read of such a point besides the model.

    `optimizer` are the tensors of `vlmzoo.training.optimization.optimizer_tensors`, `samples` the fingerprint of the data,
    `audit` what the audit had seen, `lengths` a digest of the lengths from which the order was made (None: of none).
    """

    progress: Progress
    optimizer: dict[str, Tensor]
    samples: str
    audit: Mapping[str, Any]
    lengths: str | None = None


def save_point(vlm: VLM, folder: Path, point: Point, *, extra: Mapping[str, Any], unchanged: Unchanged | None) -> None:
    """Write a point; the earlier one at `folder` stays until this one is whole and verified. Raises as `checkpoint.save`."""
    done = point.progress
    position = _Position(
        format=1,
        step=done.step,
        epoch=done.stream.epoch,
        position=done.stream.position,
        tokens=done.tokens,
        images=done.images,
        cut=done.cut,
        seconds=done.seconds,
        losses=done.losses,
        samples=point.samples,
        lengths=point.lengths,
        audit=dict(point.audit),
    )

    def beside(staging: Path) -> None:
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in point.optimizer.items()}
        save_file(tensors, staging / TENSORS, {"format": "pt"})
        write_json(staging / POSITION, position.model_dump())

    save(vlm, folder, extra={**extra, "step": done.step}, unchanged=unchanged, beside=beside)


def read_point(folder: Path) -> Point:
    """Read what stands beside the model of a point whose files `checkpoint.load` has verified.

    Raises `CheckpointError` for a checkpoint that is no such point, or one of another format.
    """
    content = read_json(folder / POSITION)
    if content.get("format") != 1:
        raise CheckpointError(
            f"`{folder / POSITION}`: its `format` is {content.get('format')!r}, this version reads 1: go on with the vlmzoo "
            "that wrote it"
        )
    try:
        position = _Position.model_validate(content)
        tensors = load_file(folder / TENSORS)
    except (ValidationError, OSError, SafetensorError) as error:
        raise CheckpointError(f"`{folder}` is not a point from which a stage can go on: {error}") from error
    done = Progress(
        StreamState(position.epoch, position.position),
        position.losses,
        position.tokens,
        position.images,
        position.cut,
        position.seconds,
    )
    return Point(done, tensors, position.samples, position.audit, position.lengths)
