"""Positions on a grid as sines and cosines: half of the channels say the column, half the row (as in MAE, arXiv:2111.06377)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def sine_positions(rows: int, columns: int, width: int, like: Tensor) -> Float[Tensor, "N D"]:
    """For each place, row-major: sines then cosines of its column, then of its row; `width` must be divisible by 4.

    Of the device of `like`, in float32 at least.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    count = width // 4
    waves = 10000.0 ** -(torch.arange(count, device=like.device, dtype=exact) / count)
    row = torch.arange(rows, device=like.device, dtype=exact)[:, None] * waves  # rows count
    column = torch.arange(columns, device=like.device, dtype=exact)[:, None] * waves  # columns count
    sides = [
        column.sin().expand(rows, -1, -1),
        column.cos().expand(rows, -1, -1),
        row.sin()[:, None].expand(-1, columns, -1),
        row.cos()[:, None].expand(-1, columns, -1),
    ]
    return torch.cat(sides, dim=2).flatten(0, 1)


def resized(positions: Float[Tensor, "N D"], grid: tuple[int, int], onto: tuple[int, int]) -> Float[Tensor, "M D"]:
    """The positions of a grid read off at the places of another one, bicubic; as they are where the grids are equal."""
    if grid == onto:
        return positions
    image = positions.T.unflatten(1, grid)[None]  # 1 D rows columns
    return functional.interpolate(image, onto, mode="bicubic", align_corners=False)[0].flatten(1).T
