"""One global batch: its gradients, the same however it is split into micro-batches and processes.

The loss's denominator is the number of supervised tokens of the whole global batch, counted before the first forward.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from vlmzoo.config import StageConfig
from vlmzoo.data import Collator
from vlmzoo.loss import supervised_count
from vlmzoo.shortened import enumerated
from vlmzoo.training.trainable import PartState
from vlmzoo_registry import DataError, ResourceError, Sample


@dataclass(frozen=True)
class Gradients:
    """What a backward pass over a global batch came to; the gradients themselves are in the parameters.

    `loss` is the mean over its `tokens` supervised tokens (nats); `blamed` are the rows of the micro-batches whose loss is no
    number.
    """

    loss: float
    tokens: int
    blamed: tuple[Sample, ...]


class GlobalBatch:
    """Forward and backward over the rows of a global batch, of which each process takes its share."""

    def __init__(
        self, accelerator: Accelerator, wrapped: Any, collate: Collator, states: Sequence[PartState], stage: StageConfig
    ) -> None:
        self.accelerator = accelerator
        self.wrapped = wrapped
        self.collate = collate
        self.micro_batch = stage.micro_batch
        self.precision: Literal["float32", "bf16"] = stage.precision
        ranks = accelerator.num_processes
        if self.micro_batch % ranks:
            raise ResourceError(f"`micro_batch` (={self.micro_batch}) must be divisible by the {ranks} processes of this run")
        # What a row without an image cannot reach; where there are several processes, each waits for all gradients of the
        # others.
        self._of_images = [p for s in states if s.name != "language" for p in s.trained.values()] if ranks > 1 else []
        self._image_only = not any(state.trained for state in states if state.name == "language")

    def backward(self, rows: Sequence[Sample]) -> Gradients:
        """Add the gradients of the mean loss over all rows. Raises `DataError` where they cannot reach what trains."""
        if self._image_only and not any(row.images for row in rows):
            raise DataError(
                "a batch does not touch what trains (rows without an image, and only image parts train); mix in rows with "
                f"images or train the language model: {sources(rows)}"
            )
        accelerator, ranks, rank = self.accelerator, self.accelerator.num_processes, self.accelerator.process_index
        micros = [rows[start : start + self.micro_batch][rank::ranks] for start in range(0, len(rows), self.micro_batch)]
        batches = [_to(self.collate(micro), accelerator.device) for micro in micros]
        counts = [supervised_count(batch["labels"], weights=batch.get("weights")) for batch in batches]
        tokens = accelerator.reduce(torch.stack(counts).sum(), reduction="sum")
        # Gradients are averaged over processes: a denominator smaller by their number makes the average a sum.
        denominator = tokens / ranks
        shares = []
        for number, batch in enumerate(batches):
            last = number + 1 == len(batches)
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                shares.append(self._forward_backward(batch, denominator))
        loss = float(accelerator.reduce(torch.stack(shares).sum(), reduction="sum")) / ranks
        blamed = [row for share, micro in zip(shares, micros, strict=True) if not share.isfinite() for row in micro]
        return Gradients(loss, int(tokens), tuple(blamed))

    def _forward_backward(self, batch: dict[str, Tensor], denominator: Tensor) -> Tensor:
        """The share of a micro-batch in the loss; its gradients are added to those that are there."""
        weights = batch.pop("weights", None)
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            loss: Tensor = self.wrapped(**batch, loss_weights=weights, num_items_in_batch=denominator).loss
        share = loss.detach()
        if "pixel_values" not in batch:
            for parameter in self._of_images:
                loss = loss + 0 * parameter.flatten()[0]
        if loss.requires_grad:
            self.accelerator.backward(loss)
        return share


def sources(rows: Sequence[Sample]) -> str:
    """Where rows come from, for a message: the first eight."""
    return enumerated([row.source for row in rows], 8)


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
