"""Pixels for towers that take patches instead of an image: SigLIP 2 NaFlex (arXiv:2502.14786, section 2.4) and its like.

Such a tower is told how many rows and columns of patches there are, and interpolates its positions to them.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from vlmzoo_registry import Grid


@dataclass(frozen=True)
class Patches:
    """How an image is cut for the tower: into squares of `side` pixels."""

    side: int

    @staticmethod
    def taken_by(model: PreTrainedModel) -> bool:
        """Whether this tower is called with patches and their spatial shapes."""
        parameters = inspect.signature(model.forward).parameters
        return {"pixel_values", "pixel_attention_mask", "spatial_shapes"} <= parameters.keys()

    def grid(self, size: Grid) -> Grid:
        """Rows and columns of patches."""
        return (size[0] // self.side, size[1] // self.side)

    def inputs(self, pixels: Float[Tensor, "B 3 H W"]) -> dict[str, Any]:
        """What the tower is called with: patches in row-major order, each by row, column and colour; none of them padding."""
        images = len(pixels)
        rows, columns = self.grid((pixels.shape[2], pixels.shape[3]))
        cut = pixels.reshape(images, 3, rows, self.side, columns, self.side).permute(0, 2, 4, 3, 5, 1)
        return {
            "pixel_values": cut.reshape(images, rows * columns, self.side * self.side * 3),
            "pixel_attention_mask": torch.ones(images, rows * columns, dtype=torch.long, device=pixels.device),
            # Its values are read, so that it lies on the CPU wherever the model is.
            "spatial_shapes": torch.tensor([[rows, columns]] * images, device="cpu"),
        }
