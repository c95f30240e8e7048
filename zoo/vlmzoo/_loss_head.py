"""How rows become logits and the logits' gradient goes back: through a plain weight, or through any module.

One block of logits goes through autograd as usual; several chunks get their gradient in the forward pass, because keeping
their logits is what the chunks are to avoid and computing them twice (checkpointing) costs a third more.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import Node, saved_tensors_hooks

from vlmzoo._loss_terms import Terms
from vlmzoo_registry.compat.torch import has_hooks


def loss_head(head: Tensor | nn.Module) -> "LossHead":
    """The way through this head: a linear layer of plain parameters, with nothing hooked in, is used as weight and bias."""
    if isinstance(head, Tensor):
        return LinearHead(head, None)
    if type(head) is nn.Linear and type(head.weight) is nn.Parameter and not _is_hooked(head):
        return LinearHead(head.weight, head.bias)
    return ModuleHead(head)


class LossHead(ABC):
    """A head as the loss uses it."""

    @property
    @abstractmethod
    def trainable(self) -> Sequence[Tensor]:
        """The tensors of the head that need a gradient."""

    @abstractmethod
    def vocabulary(self, rows: Float[Tensor, "n d"]) -> int:
        """V, the number of logits that a row gets."""

    @abstractmethod
    def logits(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
        """The logits of these rows, differentiable."""

    @abstractmethod
    def block(self, rows: Float[Tensor, "n d"], terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """The three sums of `Terms.sums` over all rows at once; the first is differentiable."""

    @abstractmethod
    def chunks(self, rows: Float[Tensor, "n d"], terms: Terms, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same sums with at most `chunk` rows of logits in memory."""


@final
class LinearHead(LossHead):
    """A weight [V, d] and perhaps a bias [V]: logits are nobody else's, so their gradient is written over them."""

    def __init__(self, weight: Float[Tensor, "V d"], bias: Float[Tensor, " V"] | None) -> None:
        self.weight = weight
        self.bias = bias

    @property
    def trainable(self) -> Sequence[Tensor]:
        return [tensor for tensor in (self.weight, self.bias) if tensor is not None and tensor.requires_grad]

    def vocabulary(self, rows: Float[Tensor, "n d"]) -> int:
        return self.weight.shape[0]

    def logits(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
        bias = None if self.bias is None else self.bias.to(rows.dtype)
        return F.linear(rows, self.weight.to(rows.dtype), bias)

    def block(self, rows: Float[Tensor, "n d"], terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        return _BlockLoss.apply(self.logits(rows), terms, True)

    def chunks(self, rows: Float[Tensor, "n d"], terms: Terms, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        return _LinearChunksLoss.apply(rows, self.weight, self.bias, terms, chunk)


@final
class ModuleHead(LossHead):
    """Any module from [..., d] to [..., V]."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def trainable(self) -> Sequence[Tensor]:
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def vocabulary(self, rows: Float[Tensor, "n d"]) -> int:
        # With grad mode as it is: under no_grad, autocast would cache a weight that no gradient reaches.
        return self.logits(rows[:0]).shape[-1]

    def logits(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n V"]:
        logits = self.module(rows)
        if logits.ndim != 2 or logits.shape[0] != rows.shape[0]:
            raise ValueError(f"the head gave {list(logits.shape)} for rows {list(rows.shape)}; it must map [n, d] to [n, V]")
        return logits

    def block(self, rows: Float[Tensor, "n d"], terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        return _BlockLoss.apply(self.logits(rows), terms, False)

    def chunks(self, rows: Float[Tensor, "n d"], terms: Terms, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        return _ModuleChunksLoss.apply(rows, self, terms, chunk, *self.trainable)

    def chunk_gradients(
        self, rows: Float[Tensor, "n d"], terms: Terms, parameters: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "3"], Tensor | None, list[Tensor | None]]:
        """The sums over these rows, and the gradients of the rows (where they need one) and of the parameters."""
        sources = [rows, *parameters] if rows.requires_grad else list(parameters)
        with torch.enable_grad(), _own_saved_tensors():
            logits = self.logits(rows)
            _check_sources(logits, sources)
            values = logits.detach()
            gradient = torch.empty_like(values)
            sums = terms.sums(values, gradient)
            found: list[Tensor | None] = list(torch.autograd.grad(logits, sources, gradient, allow_unused=True))
        return sums, found.pop(0) if rows.requires_grad else None, found


class _BlockLoss(torch.autograd.Function):
    """Keeps one tensor of the logits' size and dtype: their gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, terms: Terms, overwrite: bool) -> tuple[Tensor, ...]:
        values = logits.detach()
        gradient = values if overwrite else torch.empty_like(values)
        sums = terms.sums(values, gradient)
        ctx.save_for_backward(gradient)
        return _outputs(ctx, sums)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        return _times(ctx.saved_tensors[0], upstream), None, None


class _LinearChunksLoss(torch.autograd.Function):
    """Keeps the gradients of rows, weight and bias; one buffer of logits serves all chunks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, terms: Terms, chunk: int) -> tuple[Tensor, ...]:
        rows_train, weight_trains, bias_trains = ctx.needs_input_grad[:3]
        # Autocast by hand: the weight is cast once instead of once per chunk.
        dtype = torch.get_autocast_dtype(rows.device.type) if _is_autocast(rows) else rows.dtype
        inputs, matrix = rows.to(dtype), weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        logits = inputs.new_empty(chunk, matrix.shape[0])
        rows_gradient = torch.empty_like(inputs) if rows_train else None
        weight_gradient = torch.empty_like(weight) if weight_trains else None
        bias_gradient = torch.zeros_like(bias, dtype=terms.scale.dtype) if bias is not None and bias_trains else None
        sums = terms.scale.new_zeros(3)
        for start in range(0, inputs.shape[0], chunk):
            part = inputs[start : start + chunk]
            block = torch.mm(part, matrix.T, out=logits[: part.shape[0]])
            if offset is not None:
                block += offset
            sums += terms[start : start + chunk].sums(block, block)
            if rows_gradient is not None:
                torch.mm(block, matrix, out=rows_gradient[start : start + chunk])
            if bias_gradient is not None:
                bias_gradient += block.sum(0, dtype=bias_gradient.dtype)
            if weight_gradient is not None:
                _add_product(weight_gradient, block, part, first=start == 0)
        ctx.save_for_backward(
            None if rows_gradient is None else rows_gradient.to(rows.dtype),
            weight_gradient,
            None if bias_gradient is None or bias is None else bias_gradient.to(bias.dtype),
        )
        return _outputs(ctx, sums)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        return *(_times(gradient, upstream) for gradient in ctx.saved_tensors), None, None


class _ModuleChunksLoss(torch.autograd.Function):
    """Keeps the gradients of the rows and of the module's parameters, which autograd computes chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, head: ModuleHead, terms: Terms, chunk: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        rows_gradient = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        gradients: list[Tensor | None] = [None] * len(parameters)
        sums = terms.scale.new_zeros(3)
        for start in range(0, rows.shape[0], chunk):
            part = rows[start : start + chunk].detach().requires_grad_(rows_gradient is not None)
            chunk_sums, part_gradient, new = head.chunk_gradients(part, terms[start : start + chunk], parameters)
            sums += chunk_sums
            if rows_gradient is not None:
                rows_gradient[start : start + chunk] = 0 if part_gradient is None else part_gradient
            _accumulate(gradients, new)
            del new  # before the next chunk makes its own
        ctx.save_for_backward(rows_gradient, *gradients)
        return _outputs(ctx, sums)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        rows_gradient, *gradients = ctx.saved_tensors
        return _times(rows_gradient, upstream), None, None, None, *(_times(gradient, upstream) for gradient in gradients)


def _outputs(ctx: Any, sums: Float[Tensor, "3"]) -> tuple[Tensor, ...]:
    loss, nll, z = (value.clone() for value in sums)
    ctx.mark_non_differentiable(nll, z)
    return loss, nll, z


def _add_product(
    total: Float[Tensor, "V d"], gradient: Float[Tensor, "n V"], rows: Float[Tensor, "n d"], *, first: bool
) -> None:
    """total += gradient.T @ rows, without a second buffer where the dtypes agree; the first product replaces what was there."""
    if total.dtype == gradient.dtype:
        total.addmm_(gradient.T, rows, beta=0 if first else 1)
    elif first:
        total.copy_(gradient.T @ rows)
    else:
        total += gradient.T @ rows


def _accumulate(totals: list[Tensor | None], new: Sequence[Tensor | None]) -> None:
    """Adds in place to totals of our own: what autograd gives may be shared between parameters, so the first is copied."""
    for index, gradient in enumerate(new):
        total = totals[index]
        if gradient is not None:
            totals[index] = gradient.clone() if total is None else total.add_(gradient)


def _times(gradient: Tensor | None, upstream: Tensor) -> Tensor | None:
    """The kept gradient times the gradient of the loss, never in place: the graph may be retained and run again."""
    if gradient is None:
        return None
    if upstream.device.type == "cpu" and upstream.item() == 1:  # the usual case; on a GPU looking would cost a wait
        return gradient
    return gradient * upstream


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "masked_nll has no second derivative, because it computes its gradient in closed form in the forward pass: call "
            "backward or grad without create_graph=True, or compute the loss from logits with torch.nn.functional.cross_entropy"
        )


def _check_sources(logits: Tensor, sources: Sequence[Tensor]) -> None:
    """Every leaf that the logits depend on must be a source, or its gradient would be lost without a word."""
    known = {id(source) for source in sources}
    seen: set[Node] = set()
    waiting = [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # only the nodes that end in a leaf have one
        if leaf is not None and id(leaf) not in known:
            raise ValueError(
                f"the head uses a tensor of shape {list(leaf.shape)} that needs a gradient and is not among its parameters, so "
                "chunks would lose that gradient: register it as a parameter of the head, or pass a `chunk` of at least "
                "the number of supervised tokens, so that there is one block"
            )
        waiting.extend(previous for previous, _ in node.next_functions)


def _own_saved_tensors() -> AbstractContextManager[Any]:
    """Keeps the hooks of whoever is outside (checkpointing, offloading) off the tensors that live for one chunk."""
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def _is_autocast(rows: Tensor) -> bool:
    return torch.is_autocast_enabled(rows.device.type) and rows.dtype != torch.float64


def _is_hooked(module: nn.Module) -> bool:
    """Whether calling the module does more than its class says: hooks, or a `forward` put on the instance."""
    return "forward" in vars(module) or has_hooks(module)
