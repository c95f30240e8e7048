"""LLaVA-NeXT's layout: the whole image first, then tiles of the grid that fits it best, read as one large image.

The rows of tokens run through all tiles; what shows padding alone is cut off, and a learnt token ends every row. Figures and
order are those of transformers (LLaVA-NeXT, https://llava-vl.github.io/blog/2024-01-30-llava-next/).
"""

from math import ceil, sqrt

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_layouts.config import AnyresConfig
from vlmzoo_layouts.views import tiles
from vlmzoo_registry import (
    Arrangement,
    AssemblyError,
    Grid,
    ImageLayout,
    ImageSize,
    ImageText,
    ImageTransform,
    LayoutContext,
    VisionFeatures,
    check_views,
)

_SLACK = 1.1
"""How many times the tokens per side may be more than `max_tiles` allows before they are shrunk (LLaVA-OneVision)."""


class Anyres(ImageLayout):
    """The whole image, then tiles whose tokens stand row by row through the large image.

    An image so thin that no row of its tokens is left keeps the view of the whole alone. Raises `AssemblyError` where tokens
    have no places, or some are no patches.
    """

    def __init__(self, config: AnyresConfig, context: LayoutContext) -> None:
        super().__init__()
        shape = context.shape_at(context.view_size)
        reasons = []
        if shape.grid is None:
            reasons.append("behind the connectors tokens have no grid: use a connector that keeps places, or `dynamic-tiles`")
        if shape.prefix:
            reasons.append(f"{shape.prefix} of its tokens are no patches: let the encoder drop them (`prefix: drop`)")
        if shape.grid is None or reasons:
            raise AssemblyError(f"`anyres` reads the tokens of a view as rows of an image, and a view has {shape}:", reasons)
        self.grid = shape.grid
        self.size = context.view_size
        self.grids, self.unpad, self.max_tiles = config.grids, config.unpad, config.max_tiles
        # The scale at which the embeddings of a language model begin, so that a line's end is no louder than a word.
        self.newline = nn.Parameter(torch.randn(context.width) / sqrt(context.width)) if config.newline else None

    @property
    def fixed(self) -> None:
        """It depends on the size of the image."""
        return None

    def arrangement(self, size: ImageSize) -> Arrangement:
        """The grid in which most pixels of the image are seen, and of such the smallest."""
        height, width = size

        def fit(grid: tuple[int, int]) -> tuple[int, int]:
            high, wide = grid[0] * self.size[0], grid[1] * self.size[1]
            scale = min(wide / width, high / height)
            seen = min(int(width * scale) * int(height * scale), height * width)
            return seen, seen - high * wide

        rows, columns = max(self.grids, key=fit)
        return Arrangement(rows, columns, height, width)

    def views(self, arrangement: Arrangement) -> int:
        """The whole image and its tiles."""
        return 1 + arrangement.rows * arrangement.columns

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """The size of the encoder's transform."""
        return self.size

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The whole image at the size of a view, its ratio not kept; then tiles of it, its ratio kept, black around it."""
        cut = self.arrangement((image.height, image.width))
        high, wide = cut.rows * self.size[0], cut.columns * self.size[1]
        if wide / image.width < high / image.height:
            height, width = min(ceil(image.height * (wide / image.width)), high), wide
        else:
            height, width = high, min(ceil(image.width * (high / image.height)), wide)
        canvas = Image.new("RGB", (wide, high))
        canvas.paste(transform.resized(image, (height, width)), ((wide - width) // 2, (high - height) // 2))
        whole = transform.resized(image, self.size)
        return [transform.normalised(view) for view in [whole, *tiles(canvas, cut.rows, cut.columns)]]

    def text(self, arrangement: Arrangement) -> ImageText:
        """Its slots and nothing else."""
        rows, columns = self._shrunk(self._seen(arrangement)[2])
        return (self.grid[0] * self.grid[1] + rows * (columns + (self.newline is not None)),)

    def thumbnail(self, arrangement: Arrangement) -> int:
        """The first."""
        return 0

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of the whole image, then the rows of tokens of the tiles."""
        rows, columns = self.grid
        check_views("layouts/anyres", features.tokens, self.views(arrangement), rows * columns)
        whole, tiled = features.tokens[0], features.tokens[1:]
        # From tiles, and rows within them, to rows of the large image.
        large = tiled.unflatten(1, self.grid).unflatten(0, (arrangement.rows, arrangement.columns))
        large = large.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)  # [d, H, W]
        top, left, (height, width) = self._seen(arrangement)
        large = large[:, top : top + height, left : left + width]
        smaller = self._shrunk((height, width))
        if smaller != (height, width):
            large = functional.interpolate(large[None], smaller, mode="bilinear")[0]
        if self.newline is not None:
            ends = self.newline.to(large)[:, None, None].expand(-1, large.shape[1], 1)
            large = torch.cat([large, ends], dim=2)
        return torch.cat([whole, large.flatten(1).T])

    def _seen(self, arrangement: Arrangement) -> tuple[int, int, Grid]:
        """Where in the large grid the image begins (row, column), and how many rows and columns of tokens show it."""
        rows, columns = arrangement.rows * self.grid[0], arrangement.columns * self.grid[1]
        if not self.unpad:
            return 0, 0, (rows, columns)
        if arrangement.width / arrangement.height > columns / rows:
            above = (rows - int(round(arrangement.height * (columns / arrangement.width), 7))) // 2
            return above, 0, (rows - 2 * above, columns)
        before = (columns - int(round(arrangement.width * (rows / arrangement.height), 7))) // 2
        return 0, before, (rows, columns - 2 * before)

    def _shrunk(self, grid: Grid) -> Grid:
        """The rows and columns of tokens after shrinking to `max_tiles` (LLaVA-OneVision, https://arxiv.org/abs/2408.03326)."""
        if self.max_tiles is None:
            return grid
        ratio = sqrt(grid[0] * grid[1] / (self.max_tiles * self.grid[0] * self.grid[1]))
        return (int(grid[0] // ratio), int(grid[1] // ratio)) if ratio > _SLACK else grid
