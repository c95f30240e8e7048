"""How a tiny layout is made and fed: behind encoders of several kinds, with images of many sizes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import AssemblyError, DataError
from vlmzoo_registry.features import FeatureShape
from vlmzoo_registry.layout import Arrangement, ImageLayout, ImageSize, LayoutContext
from vlmzoo_registry.testing.check import CheckFailure
from vlmzoo_registry.testing.harness import PassingHarness
from vlmzoo_registry.testing.tiny import make, tiny_config
from vlmzoo_registry.vision import ImageTransform, VisionFeatures

WIDTH, PATCH = 12, 4

SIZES: tuple[ImageSize, ...] = (
    (48, 48), (24, 24), (96, 72), (90, 120), (60, 180), (150, 50), (23, 25), (1, 1), (5, 7), (30, 200), (200, 20), (3, 900),
)  # fmt: skip
"""Images that are square, whole tiles, wide, high, smaller than a view, single pixels, and lines."""


def contexts() -> Iterator[LayoutContext]:
    """Behind an encoder that takes any size: square views, an odd number of tokens, a prefix, oblong views; then with a
    resampler, and behind an encoder that takes its own size only.
    """
    for view, prefix in (((24, 24), 0), ((28, 28), 0), ((24, 24), 1), ((24, 36), 0)):
        yield LayoutContext(view, _any_size(prefix), WIDTH)
    yield LayoutContext((24, 24), _resampled, WIDTH)
    yield LayoutContext((24, 24), _own_size, WIDTH)


def _any_size(prefix: int) -> Callable[[ImageSize], FeatureShape]:
    def shape_at(size: ImageSize) -> FeatureShape:
        if size[0] < PATCH or size[1] < PATCH:
            raise AssemblyError(f"a view of {size[0]}x{size[1]} pixels is smaller than a patch of {PATCH}")
        rows, columns = size[0] // PATCH, size[1] // PATCH
        return FeatureShape(WIDTH, prefix + rows * columns, (rows, columns), prefix)

    return shape_at


def _resampled(size: ImageSize) -> FeatureShape:
    return replace(_any_size(0)(size), count=9, grid=None)


def _own_size(size: ImageSize) -> FeatureShape:
    if size != (24, 24):
        raise AssemblyError(f"it takes views of 24x24 pixels, not {size[0]}x{size[1]}")
    return FeatureShape(WIDTH, 36, (6, 6))


class LayoutHarness(PassingHarness[ImageLayout]):
    """Image layouts. A row of the inputs is a view of one image."""

    def make_in(self, config: ComponentConfig, context: LayoutContext) -> ImageLayout:
        """Call the factory."""
        return make(self.component, ImageLayout, config, context)  # type: ignore[type-abstract]

    @cached_property
    def context(self) -> LayoutContext:
        """The first neighbours with which the layout agrees. Raises `CheckFailure` where there are none."""
        refusals = []
        with torch.device("cpu"):
            for context in contexts():
                try:
                    self.make_in(tiny_config(self.component), context)
                    return context
                except AssemblyError as error:
                    view = context.view_size
                    refusals.append(f"views of {view[0]}x{view[1]} pixels, {context.shape_at(view)}: {error}")
        raise CheckFailure("it agrees with no neighbours at all", refusals)

    @property
    def transform(self) -> ImageTransform:
        """Pixels on the scale [0, 1], the whole image squashed to the size of a view."""
        return ImageTransform(*self.context.view_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")

    def make(self, config: ComponentConfig) -> ImageLayout:
        """Call the factory with neighbours it agrees with."""
        return self.make_in(config, self.context)

    def declared(self, part: ImageLayout) -> dict[str, object]:
        """The arrangement, views, text and thumbnail of images of all sizes."""
        said: dict[str, object] = {"fixed": part.fixed, "control_tokens": part.control_tokens}
        for size, cut in self.arrangements(part):
            said[f"image of {size[0]}x{size[1]}"] = (
                cut,
                part.views(cut),
                part.view_size(cut),
                part.text(cut),
                part.thumbnail(cut),
            )
        return said

    def arrangements(self, part: ImageLayout) -> list[tuple[ImageSize, Arrangement]]:
        """How the images that the layout takes are cut. Raises `CheckFailure` where it refuses all."""
        taken, refusals = [], []
        for size in SIZES:
            try:
                taken.append((size, part.arrangement(size)))
            except DataError as error:
                refusals.append(f"{size[0]}x{size[1]} pixels: {error}")
        if not taken:
            raise CheckFailure("it refuses images of every size", refusals)
        return taken

    def features(self, part: ImageLayout, tokens: Tensor, cut: Arrangement) -> VisionFeatures:
        """Tokens [V, N, d] as what stands behind the connectors for the views of an image."""
        shape = self.context.shape_at(part.view_size(cut))
        return VisionFeatures(tokens, shape.grid, shape.prefix)

    def token_shape(self, part: ImageLayout, cut: Arrangement) -> tuple[int, int, int]:
        """Of how many views, of how many tokens of which width, the features of an image are."""
        return part.views(cut), self.context.shape_at(part.view_size(cut)).count, WIDTH

    def image(self, size: ImageSize) -> Image.Image:
        """An image whose red grows from 0 to 255 to the right, and whose green does so downwards."""
        red, green = Image.linear_gradient("L").rotate(90).resize(size[::-1]), Image.linear_gradient("L").resize(size[::-1])
        return Image.merge("RGB", (red, green, Image.new("L", size[::-1])))

    def cut(self, part: ImageLayout) -> Arrangement:
        """The first image of those cut into most views."""
        return max((cut for _, cut in self.arrangements(part)), key=part.views)

    def inputs(self, part: ImageLayout, rows: int) -> tuple[Tensor, ...]:
        """Tokens [V, N, d] of the views of an image, as many as it has."""
        return (torch.randn(self.token_shape(part, self.cut(part))),)

    def outputs(self, part: ImageLayout, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The tokens of the image [M, d]."""
        cut = self.cut(part)
        return (part(self.features(part, inputs[0], cut), cut),)

    def through(self, part: ImageLayout) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """The views of an image."""
        (tokens,) = self.inputs(part, 1)
        return {"views": tokens.requires_grad_()}, self.outputs(part, (tokens,))

    def wrong_calls(self, part: ImageLayout) -> dict[str, Callable[[], object]]:
        """The tokens of a view too many, and of views that are too small."""
        cut = self.cut(part)
        views, count, width = self.token_shape(part, cut)

        def call(*shape: int) -> Callable[[], object]:
            return lambda: part(self.features(part, torch.zeros(shape), cut), cut)

        return {
            f"the tokens of {views + 1} views instead of {views}": call(views + 1, count, width),
            f"views of {count - 1} tokens instead of {count}": call(views, count - 1, width),
        }
