"""The contract of an image layout: how an image becomes views for the encoder, and how their tokens stand in the text.

An encoder sees one size; published models cut larger images into tiles, or keep their ratio. A layout does the cutting, says
what stands for the image in the text, and puts the tokens of the views in that order.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from vlmzoo_registry.features import FeatureShape
from vlmzoo_registry.vision import ImageTransform, VisionFeatures

ImageSize = tuple[int, int]
"""Height and width in pixels."""

ImageText = tuple[str | int, ...]
"""What stands for an image in the text, in order: pieces of text, and numbers of image slots."""


@dataclass(frozen=True)
class Arrangement:
    """How one image was cut: `rows` x `columns` tiles, and the size of the image (of a view, where the layout has one of any
    size) in pixels. Together with the layout it says everything: how many views, their size, the text, the order of tokens.
    """

    rows: int
    columns: int
    height: int
    width: int


@dataclass(frozen=True)
class LayoutContext:
    """What a layout is told about its neighbours.

    `view_size` is the size the encoder's own transform gives; `shape_at` says what a view of some size has become behind the
    connectors, and raises `AssemblyError` for a size that a part cannot take; `width` is the width of those tokens.
    """

    view_size: ImageSize
    shape_at: Callable[[ImageSize], FeatureShape]
    width: int


class ImageLayout(nn.Module, ABC):
    """Implement this to bring a way of cutting images; constructed as `factory(config, context)`.

    Its parameters (a learnt newline embedding) belong to the connector: they train and are saved with it.
    """

    @property
    @abstractmethod
    def fixed(self) -> Arrangement | None:
        """The arrangement that every image has; None where it depends on the size of the image."""

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """The special tokens that `text` writes by their names; each becomes one token of the tokenizer."""
        return ()

    @abstractmethod
    def arrangement(self, size: ImageSize) -> Arrangement:
        """How an image of this size is cut. Raises `DataError` for a size that cannot be (an extreme ratio)."""

    @abstractmethod
    def views(self, arrangement: Arrangement) -> int:
        """How many views an image has."""

    @abstractmethod
    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """The size of these views, all alike."""

    @abstractmethod
    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The pixels of the views of one RGB image, as many and as large as `arrangement` of its size says.

        Tiles come row by row from the top left. The view of the whole stands before or behind them, where `thumbnail` says.
        """

    @abstractmethod
    def text(self, arrangement: Arrangement) -> ImageText:
        """What stands for the image where its tokens are placed in the text."""

    @abstractmethod
    def thumbnail(self, arrangement: Arrangement) -> int | None:
        """Which view shows the whole image: the one that stands in the text of a hybrid model. None where there is none."""

    @abstractmethod
    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of one image in the order of its slots, from those of its views [V, N, d] behind the connectors."""
