"""Pixtral's layout: one view that keeps the ratio of the image, with a token at the end of every row of tokens."""

from math import ceil, floor

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlmzoo_layouts.config import NativeConfig
from vlmzoo_registry import (
    Arrangement,
    AssemblyError,
    DataError,
    FeatureShape,
    ImageLayout,
    ImageSize,
    ImageText,
    ImageTransform,
    LayoutContext,
    VisionFeatures,
    check_views,
)

_BREAK, _END = "[IMG_BREAK]", "[IMG_END]"


class Native(ImageLayout):
    """One view of the image's own size, scaled down to `longest_edge` where it is larger, rounded up to whole tokens.

    `[IMG_BREAK]` stands behind every row of tokens but the last, `[IMG_END]` behind that (Pixtral,
    https://arxiv.org/abs/2410.07073, section 2.2). Raises `AssemblyError` where tokens have no places, some are no patches, or
    the encoder takes views of one size only.
    """

    def __init__(self, config: NativeConfig, context: LayoutContext) -> None:
        super().__init__()
        height, width = context.view_size
        shape = context.shape_at(context.view_size)
        grid = shape.grid
        if grid is None or shape.prefix or height % grid[0] or width % grid[1]:
            raise AssemblyError(
                f"`native` ends every row of tokens, so each must stand for a patch of the image: a view of {height}x{width} "
                f"pixels has {shape}"
            )
        self.step = (height // grid[0], width // grid[1])
        """How many pixels a token stands for: the encoder's patch, times what the connectors merge."""
        self.longest_edge = config.longest_edge or max(context.view_size)
        rows, columns = (ceil(self.longest_edge / step) for step in self.step)
        reasons = []
        for tokens in ((rows, 1), (1, columns), (rows, columns)):
            size = (tokens[0] * self.step[0], tokens[1] * self.step[1])
            expected = FeatureShape(shape.width, tokens[0] * tokens[1], tokens)
            try:
                found = context.shape_at(size)
            except AssemblyError as error:
                reasons.append(f"{size[0]}x{size[1]} pixels: {error}")
                continue
            if found != expected:
                reasons.append(f"{size[0]}x{size[1]} pixels become {found}, not {expected}")
        if reasons:
            raise AssemblyError(
                "`native` gives the encoder views of the images' own sizes, and some do not go through:", reasons
            )

    @property
    def fixed(self) -> None:
        """It depends on the size of the image."""
        return None

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """What ends a row, and the image."""
        return _BREAK, _END

    def arrangement(self, size: ImageSize) -> Arrangement:
        """One view of the size that is said. Raises `DataError` for an image so thin that scaled down it has no pixels left."""
        height, width = size
        ratio = max(size) / self.longest_edge
        if ratio > 1:
            height, width = floor(height / ratio), floor(width / ratio)
        if not (height and width):
            raise DataError(
                f"an image of {size[0]}x{size[1]} pixels, scaled down to a longest side of {self.longest_edge}, is thinner "
                "than a pixel: crop it, or drop the row"
            )
        return Arrangement(1, 1, ceil(height / self.step[0]) * self.step[0], ceil(width / self.step[1]) * self.step[1])

    def views(self, arrangement: Arrangement) -> int:
        """One."""
        return 1

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """As the arrangement has it."""
        return arrangement.height, arrangement.width

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The image at that size."""
        size = self.view_size(self.arrangement((image.height, image.width)))
        return [transform.normalised(transform.resized(image, size))]

    def text(self, arrangement: Arrangement) -> ImageText:
        """The slots of one row of tokens after the other, and what ends each."""
        rows, columns = self._grid(arrangement)
        return (columns, _BREAK) * (rows - 1) + (columns, _END)

    def thumbnail(self, arrangement: Arrangement) -> int:
        """The only view shows everything."""
        return 0

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of the only view."""
        rows, columns = self._grid(arrangement)
        check_views("layouts/native", features.tokens, 1, rows * columns)
        return features.tokens[0]

    def _grid(self, arrangement: Arrangement) -> tuple[int, int]:
        return arrangement.height // self.step[0], arrangement.width // self.step[1]
