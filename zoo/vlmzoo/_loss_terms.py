"""The arithmetic of the loss on a block of logits: the three sums, and the gradient written over the logits.

In closed form, because autograd would keep logits, log-probabilities and their gradient: three times the largest tensor.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CPU_SLAB = 8 * 2**20
_DEVICE_SLAB = 64 * 2**20
"""Bytes of logits that are worked on at a time: they stay in a CPU's cache (5x faster), and launch few kernels on a GPU."""


@dataclass(frozen=True)
class Terms:
    """What a row of logits is held against. `scale` is the row's weight over the normaliser, float32 or float64."""

    targets: Int[Tensor, " n"]
    scale: Float[Tensor, " n"]
    label_smoothing: float
    z_loss: float

    def __getitem__(self, rows: slice) -> "Terms":
        """The terms of some of the rows."""
        return replace(self, targets=self.targets[rows], scale=self.scale[rows])

    def sums(self, logits: Float[Tensor, "n V"], gradient: Float[Tensor, "n V"] | None = None) -> Float[Tensor, "3"]:
        """Sums over the rows: the loss, -log p(target), and (log Z)²; `gradient`, where given, receives dloss / dlogits.

        `gradient` may be `logits` itself, which is then overwritten; otherwise the logits are left as they are.
        """
        if gradient is not None and logits.dtype == torch.float16:
            raise ValueError("the logits are float16, whose gradients would underflow; use bfloat16 or float32")
        count, vocabulary = logits.shape
        dtype = torch.promote_types(logits.dtype, torch.float32)
        slab_rows = max(1, (_CPU_SLAB if logits.device.type == "cpu" else _DEVICE_SLAB) // (vocabulary * dtype.itemsize))
        pieces = []
        for start in range(0, count, slab_rows):
            slab = slice(start, start + slab_rows)
            values = logits[slab].to(dtype, copy=gradient is not logits)
            pieces.append(self[slab]._slab(values, gradient is not None))
            if gradient is not None and not (gradient is logits and values.dtype == logits.dtype):
                gradient[slab].copy_(values)
        if not pieces:
            return self.scale.new_zeros(3)
        return torch.cat(pieces, dim=1).sum(1).to(self.scale.dtype)

    def _slab(self, values: Float[Tensor, "n V"], gradient: bool) -> Float[Tensor, "3 n"]:
        """The three terms of every row; `values` come in as logits and go out as their gradient (or as nothing of use)."""
        target, scale = self.targets[:, None], self.scale.to(values.dtype)[:, None]
        highest = values.amax(1, keepdim=True)
        picked = values.gather(1, target) - highest
        mean = values.mean(1, keepdim=True) - highest if self.label_smoothing else picked
        total = values.sub_(highest).exp_().sum(1, keepdim=True)
        log_total = total.log()  # log Z - highest: small, so the differences below lose nothing to large logits
        log_z = highest + log_total
        nll = log_total - picked
        smoothed = (1 - self.label_smoothing) * nll + self.label_smoothing * (log_total - mean)
        loss = scale * (smoothed + self.z_loss * log_z.square())
        if gradient:
            # scale · [ softmax · (1 + 2ζ log Z) - (1 - ε) onehot - ε / V ]
            values.mul_(scale * (1 + 2 * self.z_loss * log_z) / total)
            if self.label_smoothing:
                values.sub_(scale * (self.label_smoothing / values.shape[1]))
            values.scatter_add_(1, target, -(1 - self.label_smoothing) * scale)
        return torch.cat([loss, nll, log_z.square()], dim=1).T
