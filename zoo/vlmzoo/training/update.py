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

    `loss` is the mean over its `tokens` supervised tokens (nats), weighted and with what the stage adds to it; `nll` and `z`
    are the plain means of -log p and of (log Z)² over the same tokens. `blamed` are the rows of the micro-batches whose loss
    is no number.
    """

    loss: float
    nll: float
    z: float
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
        self.terms = {"label_smoothing": stage.label_smoothing, "z_loss": stage.z_loss}
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
        counted = torch.stack([_counts(batch) for batch in batches]).sum(dim=0)
        items, tokens, sentences = accelerator.reduce(counted, reduction="sum")
        # Gradients are averaged over processes: a denominator smaller by their number makes the average a sum.
        denominators = {"num_items_in_batch": items / ranks, "num_sentences_in_batch": sentences / ranks}
        shares = []
        for number, batch in enumerate(batches):
            last = number + 1 == len(batches)
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                shares.append(self._forward_backward(batch, denominators))
        loss, nll, z = accelerator.reduce(torch.stack(shares).sum(dim=0), reduction="sum").tolist()
        blamed = [row for share, micro in zip(shares, micros, strict=True) if not share[0].isfinite() for row in micro]
        count = int(tokens)
        return Gradients(loss / ranks, nll / count, z / count, count, tuple(blamed))

    def _forward_backward(self, batch: dict[str, Tensor], denominators: dict[str, Tensor]) -> Tensor:
        """The share of a micro-batch in the loss, and its sums of -log p and of (log Z)²; its gradients are added."""
        weights = _loss_weights(batch)
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.wrapped(**batch, loss_weights=weights, **denominators, **self.terms)
        loss: Tensor = output.loss
        share = torch.stack([loss.detach(), output.nll, output.z])
        if "pixel_values" not in batch:
            for parameter in self._of_images:
                loss = loss + 0 * parameter.flatten()[0]
        if loss.requires_grad:
            self.accelerator.backward(loss)
        return share


def sources(rows: Sequence[Sample]) -> str:
    """Where rows come from, for a message: the first eight."""
    return enumerated([row.source for row in rows], 8)


def _counts(batch: dict[str, Tensor]) -> Tensor:
    """What the losses of the tokens are divided by, how many tokens are supervised, and how many rows are labelled: [3].

    The weights of samples do not count here: a batch of samples that count little moves the model little.
    """
    shift = "labels" in batch
    supervised = batch["labels" if shift else "targets"]
    items = supervised_count(supervised, weights=batch.get("weights"), shift=shift)
    tokens = supervised_count(supervised, shift=shift)
    sentences = torch.tensor(len(batch.get("sentence_labels", ())), device=supervised.device)
    return torch.stack([count.float() for count in (items, tokens, sentences)])


def _loss_weights(batch: dict[str, Tensor]) -> Tensor | None:
    """The weight of each token, that of its sample included; takes both out of the batch."""
    weights, samples = batch.pop("weights", None), batch.pop("sample_weights", None)
    if samples is None:
        return weights
    each = samples[:, None].expand(batch["input_ids"].shape)
    return each if weights is None else weights * each


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
