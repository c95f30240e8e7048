"""InternVL's layout: tiles in the grid whose ratio is closest to the image's, and the whole image behind them."""

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlmzoo_layouts.config import DynamicTilesConfig
from vlmzoo_layouts.views import closest_grid, tiles
from vlmzoo_registry import (
    Arrangement,
    ImageLayout,
    ImageSize,
    ImageText,
    ImageTransform,
    LayoutContext,
    VisionFeatures,
    check_views,
)


class DynamicTiles(ImageLayout):
    """Tiles row by row, then, where there are several, a view of the whole; `<img>` and `</img>` around their tokens.

    The image is scaled to the size of the grid, its ratio not kept. InternVL 1.5 (https://arxiv.org/abs/2404.16821, section
    3.3); the figures are those of transformers.
    """

    def __init__(self, config: DynamicTilesConfig, context: LayoutContext) -> None:
        super().__init__()
        self.size = context.view_size
        self.count = context.shape_at(context.view_size).count
        self.min_tiles, self.max_tiles, self.whole_last = config.min_tiles, config.max_tiles, config.thumbnail

    @property
    def fixed(self) -> None:
        """It depends on the size of the image."""
        return None

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """What stands around an image."""
        return "<img>", "</img>"

    def arrangement(self, size: ImageSize) -> Arrangement:
        """The grid of `min_tiles` to `max_tiles` whose ratio is closest."""
        return Arrangement(*closest_grid(size, self.size, self.min_tiles, self.max_tiles), *size)

    def views(self, arrangement: Arrangement) -> int:
        """The tiles, and the whole image where there are several."""
        count = arrangement.rows * arrangement.columns
        return count + 1 if count > 1 and self.whole_last else count

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """The size of the encoder's transform."""
        return self.size

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The tiles of the image at the size of the grid, then the image at the size of one."""
        cut = self.arrangement((image.height, image.width))
        large = transform.resized(image, (cut.rows * self.size[0], cut.columns * self.size[1]))
        views = tiles(large, cut.rows, cut.columns)
        if len(views) < self.views(cut):
            views.append(transform.resized(image, self.size))
        return [transform.normalised(view) for view in views]

    def text(self, arrangement: Arrangement) -> ImageText:
        """The slots of all views between `<img>` and `</img>`."""
        return "<img>", self.views(arrangement) * self.count, "</img>"

    def thumbnail(self, arrangement: Arrangement) -> int | None:
        """The last view, or the only one; none where there are tiles alone."""
        views = self.views(arrangement)
        return views - 1 if self.whole_last or views == 1 else None

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of one view after the other."""
        check_views("layouts/dynamic-tiles", features.tokens, self.views(arrangement), self.count)
        return features.tokens.flatten(0, 1)
