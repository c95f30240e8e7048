"""One view per image: what the encoder's own transform makes of it. The layout of a model that names none."""

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.inputs import check_views
from vlmzoo_registry.layout import Arrangement, ImageLayout, ImageSize, ImageText, LayoutContext
from vlmzoo_registry.vision import ImageTransform, VisionFeatures


class Whole(ImageLayout):
    """The whole image as one view; its tokens stand in the order in which they come."""

    def __init__(self, config: NoOptions, context: LayoutContext) -> None:
        super().__init__()
        self.count = context.shape_at(context.view_size).count
        self.only = Arrangement(1, 1, *context.view_size)

    @property
    def fixed(self) -> Arrangement:
        """The same for every image."""
        return self.only

    def arrangement(self, size: ImageSize) -> Arrangement:
        """The same for every image."""
        return self.only

    def views(self, arrangement: Arrangement) -> int:
        """One."""
        return 1

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """The size of the encoder's transform."""
        return self.only.height, self.only.width

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """What the transform makes of the image."""
        return [transform(image)]

    def text(self, arrangement: Arrangement) -> ImageText:
        """The slots of its tokens."""
        return (self.count,)

    def thumbnail(self, arrangement: Arrangement) -> int:
        """The only view shows everything."""
        return 0

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of the only view."""
        check_views("whole", features.tokens, 1, self.count)
        return features.tokens[0]
