"""One global batch: its gradients, the same however it is split into micro-batches and processes.

The loss's denominator is the number of supervised tokens of the whole global batch, counted before the first forward.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from vlmzoo.config import StageConfig
from vlmzoo.loss import supervised_count
from vlmzoo.shortened import enumerated
from vlmzoo.training.micro_batch import MicroBatch
from vlmzoo.training.trainable import PartState
from vlmzoo_registry import DataError, ResourceError

WITHOUT_IMAGE = "a batch does not touch what trains (rows without an image, and only image parts train)"


@dataclass(frozen=True)
class Gradients:
    """What a backward pass over a global batch came to; the gradients themselves are in the parameters.

    `loss` is the mean over its `tokens` supervised tokens (nats), weighted and with what the stage adds to it; `nll` and `z`
    are the plain means of -log p and of (log Z)² over the same tokens. `images` is how many it shows, `cut` how many of its
    rows were too long and cut. `blamed` are those micro-batches of this process whose loss is no number.
    """

    loss: float
    nll: float
    z: float
    tokens: int
    images: int
    cut: int
    blamed: tuple[MicroBatch, ...]


class GlobalBatch:
    """Forward and backward over the micro-batches of a global batch, of each of which each process has its share."""

    def __init__(self, accelerator: Accelerator, wrapped: Any, states: Sequence[PartState], stage: StageConfig) -> None:
        self.accelerator = accelerator
        self.wrapped = wrapped
        self.precision: Literal["float32", "bf16"] = stage.precision
        self.terms = {"label_smoothing": stage.label_smoothing, "z_loss": stage.z_loss}
        ranks = accelerator.num_processes
        if stage.micro_batch % ranks:
            raise ResourceError(f"`micro_batch` (={stage.micro_batch}) must be divisible by the {ranks} processes of this run")
        self._trained = [parameter for state in states for parameter in state.trained.values()]
        self.image_only = not any(state.trained for state in states if state.name == "language")
        self._advice = advice_without_image(stage)

    def backward(self, micros: Sequence[MicroBatch]) -> Gradients:
        """Add the gradients of the mean loss over all rows. Raises `DataError` where they cannot reach what trains.

        `micros` are the shares of this process; all processes have the same number of them.
        """
        accelerator, ranks = self.accelerator, self.accelerator.num_processes
        batches = [_to(micro.tensors, accelerator.device) for micro in micros]
        counted = torch.stack([_counts(batch) for batch in batches]).sum(dim=0)
        shown = torch.tensor([sum(micro.images for micro in micros)], device=accelerator.device)
        items, tokens, sentences, cut, images = accelerator.reduce(torch.cat([counted, shown]), reduction="sum")
        if self.image_only and not images:
            raise DataError(f"{WITHOUT_IMAGE}; {self._advice}: {sources(micros)}")
        # Gradients are averaged over processes: a denominator smaller by their number makes the average a sum.
        denominators = {"num_items_in_batch": items / ranks, "num_sentences_in_batch": sentences / ranks}
        shares = []
        for number, batch in enumerate(batches):
            last = number + 1 == len(batches)
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                shares.append(self._forward_backward(batch, denominators, exchanged=last and ranks > 1))
        loss, nll, z = accelerator.reduce(torch.stack(shares).sum(dim=0), reduction="sum").tolist()
        blamed = [micro for share, micro in zip(shares, micros, strict=True) if not share[0].isfinite()]
        count = int(tokens)
        return Gradients(loss / ranks, nll / count, z / count, count, int(images), int(cut), tuple(blamed))

    def _forward_backward(self, batch: dict[str, Tensor], denominators: dict[str, Tensor], *, exchanged: bool) -> Tensor:
        """The share of a micro-batch in the loss, and its sums of -log p and of (log Z)²; its gradients are added.

        Where gradients are `exchanged` with other processes in this pass, these wait for one of every parameter that trains.
        """
        weights = _loss_weights(batch)
        with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = self.wrapped(**batch, loss_weights=weights, **denominators, **self.terms)
        loss: Tensor = output.loss
        share = torch.stack([loss.detach(), output.nll, output.z])
        if exchanged:
            for parameter in unreached(loss, self._trained):
                loss = loss + 0 * parameter.flatten()[0]
        if loss.requires_grad:
            self.accelerator.backward(loss)
        return share


def advice_without_image(stage: StageConfig) -> str:
    """What to do where a step of a stage that trains image parts alone has no image."""
    if stage.batching.group_by == "modality":
        return (
            "`group_by: modality` makes steps without an image: lower `micro_batch`, so that a step has several groups, leave "
            "`group_by` out, or train the language model"
        )
    return "mix in rows with images or train the language model"


def unreached(loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Those parameters that nothing in the graph of a loss leads to: parts of images without an image, experts unasked."""
    waiting = {get_gradient_edge(parameter).node: parameter for parameter in parameters}
    seen = set()
    nodes = [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting.pop(node, None)
        nodes += [behind for behind, _ in node.next_functions]
    return list(waiting.values())


def sources(micros: Sequence[MicroBatch]) -> str:
    """Where rows come from, for a message: the first eight."""
    return enumerated([source for micro in micros for source in micro.sources], 8)


def _counts(batch: dict[str, Tensor]) -> Tensor:
    """What the losses of the tokens are divided by, and how many tokens are supervised, rows labelled, and rows cut: [4].

    The weights of samples do not count here: a batch of samples that count little moves the model little. Takes `cut_rows`,
    which no model reads, out of the batch.
    """
    shift = "labels" in batch
    supervised = batch["labels" if shift else "targets"]
    items = supervised_count(supervised, weights=batch.get("weights"), shift=shift)
    tokens = supervised_count(supervised, shift=shift)
    sentences = torch.tensor(len(batch.get("sentence_labels", ())), device=supervised.device)
    cut = batch.pop("cut_rows", supervised.new_zeros(())).sum()
    return torch.stack([count.float() for count in (items, tokens, sentences, cut)])


def _loss_weights(batch: dict[str, Tensor]) -> Tensor | None:
    """The weight of each token, that of its sample included; takes both out of the batch."""
    weights, samples = batch.pop("weights", None), batch.pop("sample_weights", None)
    if samples is None:
        return weights
    lengths = batch.get("row_lengths")
    shape = batch["input_ids"].shape
    each = samples[:, None].expand(shape) if lengths is None else samples.repeat_interleave(lengths)[None]
    return each if weights is None else weights * each


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
