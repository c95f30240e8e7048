"""What every test of a layout needs: neighbours, images of all kinds of sizes, and tokens that know where they come from."""

import numpy as np
import torch
from hypothesis import strategies
from PIL import Image
from torch.nn import functional

from vlmzoo_registry import Arrangement, AssemblyError, FeatureShape, ImageLayout, ImageTransform, LayoutContext, VisionFeatures

IMAGE = "<image>"
WIDTH = 5


def neighbours(side: int, patch: int, *, prefix: int = 0, only: bool = False, pooled: bool = False) -> LayoutContext:
    """An encoder of square views with a token for each patch, `prefix` tokens before them; `only`: of one size; `pooled`: its
    tokens have no places.
    """

    def shape_at(size):
        if only and size != (side, side):
            raise AssemblyError(f"it takes {side}x{side} only")
        grid = size[0] // patch, size[1] // patch
        if pooled:
            return FeatureShape(WIDTH, 9, None)
        return FeatureShape(WIDTH, prefix + grid[0] * grid[1], grid, prefix)

    return LayoutContext(view_size=(side, side), shape_at=shape_at, width=WIDTH)


def transform(side: int, interpolation: str) -> ImageTransform:
    """With uneven statistics, so that a channel in another's place shows."""
    return ImageTransform(side, side, MEAN, STD, interpolation)


MEAN, STD = (0.48, 0.41, 0.52), (0.26, 0.31, 0.22)


def sizes(side: int):
    """Heights and widths: any, thin ones both ways, whole multiples of a view, single pixels."""
    small, thin, long = strategies.integers(1, 260), strategies.integers(1, 9), strategies.integers(1, 2500)
    multiple = strategies.integers(1, 8).map(lambda times: times * side)
    return strategies.one_of(
        strategies.tuples(small, small),
        strategies.tuples(thin, long),
        strategies.tuples(long, thin),
        strategies.tuples(multiple, multiple),
    )


def noise(size: tuple[int, int]) -> Image.Image:
    """An image of this height and width, without two pixels alike."""
    draws = np.random.default_rng(size[0] * 10_000 + size[1])
    return Image.fromarray(draws.integers(0, 256, (*size, 3), dtype=np.uint8))


def places(height: int, width: int) -> Image.Image:
    """An image whose pixels say where they are: red is the row, green the column, counted in 4 pixels."""
    rows, columns = np.mgrid[:height, :width] // 4
    return Image.fromarray(np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8))


def raw(side: int) -> ImageTransform:
    """Pixels as they are, without statistics."""
    return ImageTransform(side, side, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def patch_means(views: list[torch.Tensor]) -> VisionFeatures:
    """The mean of each 4x4 pixels of each view, row by row, in whole numbers of 0 to 255."""
    means = functional.avg_pool2d(torch.stack(views) * 255, 4)
    return VisionFeatures(means.flatten(2).transpose(1, 2).round(), (means.shape[2], means.shape[3]))


def numbered(layout: ImageLayout, arrangement: Arrangement, count: int) -> VisionFeatures:
    """Features of the views of an image, each number another."""
    shape = (layout.views(arrangement), count, WIDTH)
    return VisionFeatures(torch.arange(float(np.prod(shape))).view(shape), None)


def written(text) -> str:
    """What stands for an image, with its slots written out."""
    return "".join(piece if isinstance(piece, str) else IMAGE * piece for piece in text)


def slots(text) -> int:
    """How many slots stand for an image."""
    return sum(piece for piece in text if isinstance(piece, int))
