"""The layout of Idefics3 and SmolVLM: tiles with their row and column written before them, and the whole image last."""

from math import ceil

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlmzoo_layouts.config import SplitConfig
from vlmzoo_layouts.views import tiles
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

_AROUND, _WHOLE = "<fake_token_around_image>", "<global-img>"
_LARGEST = 4096
"""No side of an image is scaled to more pixels."""


class Split(ImageLayout):
    """Tiles row by row, each named by its row and column, then a view of the whole; an image of one tile is not split.

    The image is scaled to `longest_edge`, small ones too, then to whole tiles. Idefics3 (https://arxiv.org/abs/2408.12637); the
    figures are those of transformers. Raises `AssemblyError` where a view is not square.
    """

    def __init__(self, config: SplitConfig, context: LayoutContext) -> None:
        super().__init__()
        height, width = context.view_size
        if height != width:
            raise AssemblyError(f"`split` cuts square tiles, and a view of the encoder is {height}x{width} pixels")
        self.side = height
        self.count = context.shape_at(context.view_size).count
        self.longest_edge = config.longest_edge or 4 * self.side
        self.most = ceil(min(_even(self.longest_edge), _LARGEST) / self.side)
        """Rows or columns at most; rounding the shorter side to an even number may make it the longer one."""

    @property
    def fixed(self) -> None:
        """It depends on the size of the image."""
        return None

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """What stands before tiles, and around the whole."""
        places = range(1, self.most + 1)
        return _AROUND, _WHOLE, *(f"<row_{row}_col_{column}>" for row in places for column in places)

    def arrangement(self, size: ImageSize) -> Arrangement:
        """As many tiles as cover the scaled image."""
        height, width = self._whole_tiles(self._scaled(size))
        return Arrangement(height // self.side, width // self.side, *size)

    def views(self, arrangement: Arrangement) -> int:
        """The tiles and the whole image; where there is one tile, the whole image alone."""
        count = arrangement.rows * arrangement.columns
        return count + 1 if count > 1 else 1

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """The size of the encoder's transform."""
        return self.side, self.side

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The tiles of the image at the size of whole tiles, then that image at the size of one."""
        scaled = self._scaled((image.height, image.width))
        large = transform.resized(transform.resized(image, scaled), self._whole_tiles(scaled))
        rows, columns = large.height // self.side, large.width // self.side
        whole = transform.resized(large, (self.side, self.side))
        views = [*tiles(large, rows, columns), whole] if rows * columns > 1 else [whole]
        return [transform.normalised(view) for view in views]

    def text(self, arrangement: Arrangement) -> ImageText:
        """Each tile behind its place, a line for each row, and the whole image behind an empty line."""
        last = (f"{_AROUND}{_WHOLE}", self.count, _AROUND)
        if self.views(arrangement) == 1:
            return last
        pieces: list[str | int] = []
        between = ""
        for row in range(1, arrangement.rows + 1):
            for column in range(1, arrangement.columns + 1):
                pieces += [f"{between}{_AROUND}<row_{row}_col_{column}>", self.count]
                between = ""
            between = "\n"
        return *pieces, f"\n\n{last[0]}", *last[1:]

    def thumbnail(self, arrangement: Arrangement) -> int:
        """The last."""
        return self.views(arrangement) - 1

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of one view after the other."""
        check_views("layouts/split", features.tokens, self.views(arrangement), self.count)
        return features.tokens.flatten(0, 1)

    def _scaled(self, size: ImageSize) -> ImageSize:
        """The size at which the longer side is `longest_edge`, the shorter one even; at most 4096."""
        height, width = size
        if width >= height:
            height, width = _even(int(self.longest_edge / (width / height))), self.longest_edge
        else:
            height, width = self.longest_edge, _even(int(self.longest_edge * (width / height)))
        height, width = max(height, 1), max(width, 1)
        ratio = width / height
        if width >= height and width > _LARGEST:
            height, width = int(_LARGEST / ratio), _LARGEST
        elif height > width and height > _LARGEST:
            height, width = _LARGEST, int(_LARGEST * ratio)
        return max(height, 1), max(width, 1)

    def _whole_tiles(self, size: ImageSize) -> ImageSize:
        """The size in whole tiles: the longer side first, and the shorter one by the ratio of before."""
        height, width = size
        ratio = width / height
        if width >= height:
            width = self._up(width)
            return self._up(int(width / ratio)), width
        height = self._up(height)
        return height, self._up(int(height * ratio))

    def _up(self, pixels: int) -> int:
        return ceil(pixels / self.side) * self.side


def _even(pixels: int) -> int:
    return pixels + pixels % 2
