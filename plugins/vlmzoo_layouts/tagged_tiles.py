"""NVLM's layout: tiles with their number written before them, and the whole image, named as such, behind them."""

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlmzoo_layouts.config import TaggedTilesConfig
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


class TaggedTiles(ImageLayout):
    """Tiles row by row behind `<tile_1>`, `<tile_2>`, ..., then a view of the whole behind `<tile_global_thumbnail>`.

    The tags, and `<Image>` and `</Image>` around them, are ordinary text to the tokenizer (NVLM, https://arxiv.org/abs/2409.11402;
    order and words are those of NVLM-D-72B's code). An image of one tile is the view of the whole alone.
    """

    def __init__(self, config: TaggedTilesConfig, context: LayoutContext) -> None:
        super().__init__()
        self.size = context.view_size
        self.count = context.shape_at(context.view_size).count
        self.max_tiles = config.max_tiles

    @property
    def fixed(self) -> None:
        """It depends on the size of the image."""
        return None

    def arrangement(self, size: ImageSize) -> Arrangement:
        """The grid whose ratio is closest."""
        return Arrangement(*closest_grid(size, self.size, 1, self.max_tiles), *size)

    def views(self, arrangement: Arrangement) -> int:
        """The tiles and the whole image; where there is one tile, the whole image alone."""
        count = arrangement.rows * arrangement.columns
        return count + 1 if count > 1 else 1

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """The size of the encoder's transform."""
        return self.size

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The tiles of the image at the size of the grid, then the image at the size of one; its ratio is not kept."""
        cut = self.arrangement((image.height, image.width))
        large = transform.resized(image, (cut.rows * self.size[0], cut.columns * self.size[1]))
        views = tiles(large, cut.rows, cut.columns)
        if len(views) > 1:
            views.append(transform.resized(image, self.size))
        return [transform.normalised(view) for view in views]

    def text(self, arrangement: Arrangement) -> ImageText:
        """Each view behind its tag."""
        tags = [f"<tile_{number}>" for number in range(1, self.views(arrangement))] + ["<tile_global_thumbnail>"]
        tags[0] = f"<Image>{tags[0]}"
        return *(piece for tag in tags for piece in (tag, self.count)), "</Image>"

    def thumbnail(self, arrangement: Arrangement) -> int:
        """The last."""
        return self.views(arrangement) - 1

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of one view after the other."""
        check_views("layouts/tagged-tiles", features.tokens, self.views(arrangement), self.count)
        return features.tokens.flatten(0, 1)
