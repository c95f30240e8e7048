"""The layout of Llama 3.2 Vision: one view, a canvas of a few tiles, on which the image lies at the top left.

The encoder sees the canvas whole, as its tiles attend to each other.
"""

from math import floor

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlmzoo_layouts.config import CanvasConfig
from vlmzoo_registry import (
    Arrangement,
    AssemblyError,
    ImageLayout,
    ImageSize,
    ImageText,
    ImageTransform,
    LayoutContext,
    VisionFeatures,
    check_views,
)


class Canvas(ImageLayout):
    """One view of rows x columns tiles; the image keeps its ratio and lies at the top left, black around it.

    A tile is the size of the encoder's transform. The figures are those of transformers' Mllama (The Llama 3 Herd of Models,
    https://arxiv.org/abs/2407.21783). Raises `AssemblyError` where a tile is not square, or the encoder takes no canvas.
    """

    def __init__(self, config: CanvasConfig, context: LayoutContext) -> None:
        super().__init__()
        height, width = context.view_size
        if height != width:
            raise AssemblyError(f"`canvas` is made of square tiles, and a view of the encoder is {height}x{width} pixels")
        self.side = height
        self.counts: dict[tuple[int, int], int] = {}
        reasons = []
        for rows in range(1, config.max_tiles + 1):
            for columns in range(1, config.max_tiles // rows + 1):
                try:
                    self.counts[rows, columns] = context.shape_at((rows * height, columns * width)).count
                except AssemblyError as error:
                    reasons.append(f"{rows}x{columns} tiles: {error}")
        if reasons:
            raise AssemblyError(f"`canvas` with `max_tiles` (={config.max_tiles}) has views that do not go through:", reasons)

    @property
    def fixed(self) -> None:
        """It depends on the size of the image."""
        return None

    def arrangement(self, size: ImageSize) -> Arrangement:
        """The canvas on which the image is scaled up least; where it fits on none, the one on which it is scaled down least."""

        def scale(grid: tuple[int, int]) -> float:
            return min(grid[0] * self.side / size[0], grid[1] * self.side / size[1])

        scales = [scale(grid) for grid in self.counts]
        best = min((s for s in scales if s >= 1), default=max(scales))
        rows, columns = min((grid for grid in self.counts if scale(grid) == best), key=lambda grid: grid[0] * grid[1])
        return Arrangement(rows, columns, *size)

    def views(self, arrangement: Arrangement) -> int:
        """One."""
        return 1

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """The size of the canvas."""
        return arrangement.rows * self.side, arrangement.columns * self.side

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The canvas. An image smaller than a tile is scaled to its side, a larger one keeps its size where it fits."""
        high, wide = self.view_size(self.arrangement((image.height, image.width)))
        most_high, most_wide = min(max(image.height, self.side), high), min(max(image.width, self.side), wide)
        by_height, by_width = most_high / image.height, most_wide / image.width
        if by_width < by_height:
            size = (min(max(floor(image.height * by_width), 1), most_high), most_wide)
        else:
            size = (most_high, min(max(floor(image.width * by_height), 1), most_wide))
        canvas = Image.new("RGB", (wide, high))
        canvas.paste(transform.resized(image, size), (0, 0))
        return [transform.normalised(canvas)]

    def text(self, arrangement: Arrangement) -> ImageText:
        """Its slots and nothing else."""
        return (self._count(arrangement),)

    def thumbnail(self, arrangement: Arrangement) -> int:
        """The only view shows everything."""
        return 0

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of the canvas in the order in which the encoder has them."""
        check_views("layouts/canvas", features.tokens, 1, self._count(arrangement))
        return features.tokens[0]

    def _count(self, arrangement: Arrangement) -> int:
        return self.counts[arrangement.rows, arrangement.columns]
