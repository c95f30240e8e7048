"""The loss of every objective: a masked negative log-likelihood that only supervised positions ever reach.

Most positions of a vision-language sequence (image tokens, prompt, padding) have no target, and logits are the largest
tensor of a step: rows with a target are gathered first, and [B, S, V] is never made.
"""

from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vlmzoo._loss_head import LossHead, loss_head
from vlmzoo._loss_terms import Terms
from vlmzoo_registry.errors import DataError

LOGITS_BUDGET = 256 * 2**20
"""Bytes of logits (counted in float32, in float64 for float64 hidden states) up to which rows are not split into chunks."""


@dataclass(frozen=True)
class LossOutput:
    """What `masked_nll` gives back.

    `loss` carries the gradient; the others are detached sums over the supervised tokens, with no weight, smoothing or
    normaliser in them, so that they add up over micro-batches and ranks: perplexity is exp(sum of `nll` / sum of `tokens`).
    """

    loss: Float[Tensor, ""]
    """The weighted, smoothed, normalised loss, float32 (float64 where the hidden states are)."""
    nll: Float[Tensor, ""]
    """Sum of -log p(target)."""
    z: Float[Tensor, ""]
    """Sum of (log Z)², Z the softmax's denominator; it grows before a run diverges, whether or not `z_loss` holds it down."""
    tokens: Int[Tensor, ""]
    """How many tokens were supervised."""


def masked_nll(
    hidden: Float[Tensor, "B S d"],
    head: Float[Tensor, "V d"] | nn.Module,
    targets: Int[Tensor, "B S"],
    *,
    weights: Float[Tensor, "B S"] | None = None,
    normalizer: float | Tensor | None = None,
    shift: bool = True,
    chunk: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    ignore_index: int = -100,
) -> LossOutput:
    """The negative log-likelihood of the supervised targets.

    With logits l = head(h), log Z = logsumexp(l), ε = `label_smoothing`, ζ = `z_loss`, a token of target y and weight w adds

        w · [ (1 - ε) · (log Z - l_y)  +  ε · (log Z - mean_v l_v)  +  ζ · (log Z)² ]

    and the loss is the sum over the supervised tokens divided by `normalizer`. The first two terms are the cross-entropy
    against (1 - ε) · onehot(y) + ε / V (Szegedy et al. 2016, section 7, as in torch), the third is the z-loss of PaLM
    (Chowdhery et al. 2022, section 5).

    `head` is a weight or the module that maps [..., d] to [..., V], with its bias, scale or soft cap inside; it sees
    [n, d] rows, n may be 0. Logits have the dtype that `head` gives them and are upcast to float32 (float64 stays) for the
    softmax, as in transformers' `ForCausalLMLoss`.

    `shift=True` says that targets are aligned with the inputs: the hidden state at t predicts `targets[:, t + 1]`. The first
    token of a row (of a document, where several are packed into one row) must then be ignored: what stands before it, a
    pad or nothing, is not its context. `weights` stand where their targets stand and are shifted with them.

    `normalizer` defaults to the supervised tokens of this batch (the sum of their weights). Under gradient accumulation or
    over several ranks, pass the count of the whole global batch (`supervised_count`), and the losses of the parts add up.

    `chunk` is the number of rows whose logits exist at a time; by default all, until they would exceed `LOGITS_BUDGET`.
    Where there is more than one chunk the gradient is computed in the forward pass and kept as [n, d] and the parameters'
    shapes, so nothing is computed twice; parameters that are frozen cost nothing. A module head must then get every tensor
    that trains from its own parameters. There is no second derivative.

    A batch without a supervised token gives a loss of exactly 0 whose gradients are zeros. Selecting rows makes the host wait
    for the device once per call; all checks come after that wait, so they cost none of their own.

    Raises `ValueError` for arguments that do not fit together, and `DataError` naming the place and value of a target
    that is neither `ignore_index` nor in [0, V).
    """
    _check_arguments(hidden, head, targets, weights, chunk, label_smoothing, z_loss)
    batch, length, width = hidden.shape
    aligned = _align(targets, shift, ignore_index)
    positions = (aligned.reshape(-1) != ignore_index).nonzero().squeeze(1)  # [n]
    count = positions.numel()
    row_targets = aligned.reshape(-1)[positions].long()  # [n]
    rows = hidden.reshape(batch * length, width).index_select(0, positions)  # [n, d]

    accumulation = torch.promote_types(hidden.dtype, torch.float32)
    row_weights = torch.ones(count, dtype=accumulation, device=hidden.device)  # [n]
    if weights is not None:
        row_weights = _align(weights, shift, 0.0).reshape(-1)[positions].detach().to(accumulation)
    scale = row_weights / _denominator(normalizer, row_weights, weighted=weights is not None)  # [n]

    parts = loss_head(head)
    vocabulary = parts.vocabulary(rows)
    _check_targets(row_targets, positions, vocabulary, length, shift, ignore_index)
    terms = Terms(targets=row_targets, scale=scale, label_smoothing=label_smoothing, z_loss=z_loss)
    if chunk is None:
        chunk = _chunk_rows(count, vocabulary, accumulation.itemsize)
    loss, nll, z = _sums(rows, parts, terms, chunk)
    return LossOutput(loss=loss, nll=nll, z=z, tokens=torch.full((), count, dtype=torch.int64, device=hidden.device))


def supervised_count(
    targets: Int[Tensor, "B S"],
    *,
    weights: Float[Tensor, "B S"] | None = None,
    shift: bool = True,
    ignore_index: int = -100,
) -> Tensor:
    """What `masked_nll` divides by when it is given no normaliser, as a 0-dim tensor: sum it over micro-batches and ranks.

    The number of supervised targets (int64), or the sum of their weights. With `shift` the first token of a row does not count:
    nothing predicts it.
    """
    start = 1 if shift else 0
    supervised = targets[:, start:] != ignore_index
    if weights is None:
        return supervised.sum()
    return weights[:, start:].masked_fill(~supervised, 0.0).sum()


def _sums(rows: Float[Tensor, "n d"], head: LossHead, terms: Terms, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """The sums over all rows: loss (with its graph), nll, squared log-normaliser."""
    count = rows.shape[0]
    trains = torch.is_grad_enabled() and (rows.requires_grad or len(head.trainable) > 0)
    if trains and count <= chunk:
        return head.block(rows, terms)
    if trains:
        return head.chunks(rows, terms, chunk)
    with torch.no_grad():
        pieces = [
            terms[start : start + chunk].sums(head.logits(rows[start : start + chunk])) for start in range(0, count, chunk)
        ]
        loss, nll, z = torch.stack(pieces).sum(0) if pieces else terms.scale.new_zeros(3)
    return loss, nll, z


def _align(values: Tensor, shift: bool, fill: float) -> Tensor:
    """Values moved to the positions that predict them; the last position of a row then predicts nothing. [B, S] to [B, S]."""
    if not shift:
        return values
    return torch.cat([values[:, 1:], torch.full_like(values[:, :1], fill)], dim=1)


def _chunk_rows(count: int, vocabulary: int, itemsize: int) -> int:
    """Rows per chunk so that the logits of one stay within the budget and the last chunk is not a sliver."""
    most = max(1, LOGITS_BUDGET // (vocabulary * itemsize))
    return max(1, ceil(count / max(1, ceil(count / most))))


def _denominator(normalizer: float | Tensor | None, row_weights: Float[Tensor, " n"], *, weighted: bool) -> float | Tensor:
    if row_weights.numel() == 0:
        return 1.0
    if normalizer is not None:
        shape = tuple(normalizer.shape) if isinstance(normalizer, Tensor) else ()
        if shape != ():
            raise ValueError(f"`normalizer` must be a number or a 0-dim tensor, not a tensor of shape {shape}")
        if not normalizer > 0:
            raise ValueError(
                f"`normalizer` (={float(normalizer)}) must be positive: {row_weights.numel()} tokens are supervised"
            )
        return normalizer.detach().to(row_weights) if isinstance(normalizer, Tensor) else float(normalizer)
    if not weighted:
        return float(row_weights.numel())
    if bool((row_weights < 0).any()):
        raise ValueError(
            f"`weights` has a negative value ({float(row_weights.min())}) at a supervised token, so its sum is no measure of "
            "the batch; pass `normalizer`, for instance the number of supervised tokens"
        )
    total = row_weights.sum()
    return torch.where(total == 0, torch.ones_like(total), total)


def _check_arguments(
    hidden: Tensor,
    head: Tensor | nn.Module,
    targets: Tensor,
    weights: Tensor | None,
    chunk: int | None,
    label_smoothing: float,
    z_loss: float,
) -> None:
    reasons = []
    if hidden.ndim != 3:
        reasons.append(f"`hidden` must be [B, S, d], not {_shape(hidden)}")
    elif targets.shape != hidden.shape[:2]:
        reasons.append(f"`targets` {_shape(targets)} must have the first two sizes of `hidden` {_shape(hidden)}")
    if hidden.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        reasons.append(
            f"`hidden` has dtype {hidden.dtype}; use float32, float64 or bfloat16 (float16 gradients would underflow)"
        )
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        reasons.append(f"`targets` has dtype {targets.dtype}; token ids are integers")
    if targets.device != hidden.device:
        reasons.append(f"`targets` is on {targets.device} but `hidden` on {hidden.device}")
    if weights is not None and weights.shape != targets.shape:
        reasons.append(f"`weights` {_shape(weights)} must have the shape of `targets` {_shape(targets)}")
    if isinstance(head, Tensor) and (head.ndim != 2 or head.shape[1] != hidden.shape[-1]):
        reasons.append(f"`head` {_shape(head)} must be [V, d] with d (={hidden.shape[-1]}) the last size of `hidden`")
    if chunk is not None and chunk < 1:
        reasons.append(f"`chunk` (={chunk}) must be at least 1 row")
    if not 0 <= label_smoothing < 1:
        reasons.append(f"`label_smoothing` (={label_smoothing}) must be in [0, 1)")
    if not z_loss >= 0:
        reasons.append(f"`z_loss` (={z_loss}) must not be negative")
    if reasons:
        raise ValueError("masked_nll: " + "; ".join(reasons))


def _check_targets(
    row_targets: Int[Tensor, " n"], positions: Int[Tensor, " n"], vocabulary: int, length: int, shift: bool, ignore_index: int
) -> None:
    outside = (row_targets < 0) | (row_targets >= vocabulary)
    if not bool(outside.any()):
        return
    first = int(outside.nonzero()[0])
    row, position = divmod(int(positions[first]), length)
    raise DataError(
        f"targets[{row}, {position + shift}] (={int(row_targets[first])}) is neither ignore_index (={ignore_index}) nor in "
        f"[0, {vocabulary}), the rows of the head; {int(outside.sum())} of {row_targets.numel()} supervised targets are not. "
        "Resize the language model to its tokenizer, or mask these tokens with ignore_index"
    )


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
