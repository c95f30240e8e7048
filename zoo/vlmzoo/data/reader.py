"""From an image to what the model is given of it: the views that its encoder sees, and what stands for it in the text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from vlmzoo_registry import Arrangement, DataError, ImageLayout, ImageSize, ImageSource, ImageText, ImageTransform

Opener = Callable[[], Image.Image]
"""What opens an image of a sample when it is called."""


def one_marker(arrangement: Arrangement) -> ImageText:
    """What stands for an image where the text only marks its place, as its tokens are attended to: one slot."""
    return (1,)


class ThumbnailText:
    """What stands for an image where its thumbnail alone is placed in the text: what stands for one that is not cut.

    That is its slots with what the layout writes around them; the slots alone for a layout that cuts every image.
    """

    def __init__(self, layout: ImageLayout, count: int, view_size: ImageSize) -> None:
        uncut = Arrangement(1, 1, *view_size)
        whole = layout.views(uncut) == 1
        text: ImageText = layout.text(uncut) if whole else (count,)
        self.text: ImageText = text if [piece for piece in text if isinstance(piece, int)] == [count] else (count,)

    def __call__(self, arrangement: Arrangement) -> ImageText:
        """The same for every image."""
        return self.text


@runtime_checkable
class SampleImages(Protocol):
    """What a collator asks about the images of samples: `ImageReader` answers with pixels, `FeatureReader` with features."""

    @property
    def text(self) -> Callable[[Arrangement], ImageText]:
        """What stands for an image in the text."""

    def slots(self, arrangement: Arrangement, /) -> list[int]:
        """The runs of slots that stand for an image in the text."""

    def count(self, arrangement: Arrangement, /) -> int:
        """How many views the encoder sees of an image."""

    def once(self, image: Opener, /) -> Opener:
        """The same image, which is opened or looked up at most once."""

    def arrangement(self, image: Opener, source: str, /) -> Arrangement:
        """How an image is cut. Raises `DataError` naming `source`."""

    def read(self, rows: Sequence[Sequence[Opener]], sources: Sequence[str], /) -> dict[str, Tensor]:
        """What a batch says of the images of its rows. Raises `DataError` naming the source of a row."""


@dataclass(frozen=True)
class ImageReader:
    """How a model reads images: its encoder's transform, its layout, and what stands for an image in its text.

    `text` is the layout's own where the tokens of an image stand in the text (unified), `one_marker` where they do not.
    """

    transform: ImageTransform
    layout: ImageLayout
    text: Callable[[Arrangement], ImageText]

    def arrangement(self, image: Opener, source: str) -> Arrangement:
        """How an image is cut; where that depends on its size it is looked up, or opened where it does not say it.

        Raises `DataError` naming `source` for an image that the layout cannot cut.
        """
        if self.layout.fixed is not None:
            return self.layout.fixed
        if isinstance(image, ImageSource):
            size = image.size()
        else:
            opened = image()
            size = (opened.height, opened.width)
        try:
            return self.layout.arrangement(size)
        except DataError as error:
            raise DataError(f"{source}: {error.message}", error.reasons) from error

    def once(self, image: Opener) -> Opener:
        """The same image, which is opened at most once: its size is asked for before its pixels."""
        return cache(image)

    def slots(self, arrangement: Arrangement) -> list[int]:
        """The runs of slots that stand for an image in the text."""
        return [piece for piece in self.text(arrangement) if isinstance(piece, int)]

    def read(self, rows: Sequence[Sequence[Opener]], sources: Sequence[str]) -> dict[str, Tensor]:
        """The images that these open, as `batch` has them."""
        return self.batch([[load() for load in row] for row in rows], sources)

    def count(self, arrangement: Arrangement) -> int:
        """How many views the encoder sees of an image."""
        return self.layout.views(arrangement)

    def batch(self, rows: Sequence[Sequence[Image.Image]], sources: Sequence[str]) -> dict[str, Tensor]:
        """`pixel_values`, `image_mask` and, where images differ in it, `image_layout`; nothing where no row has an image.

        Raises `DataError` naming the source of the row and the image that cannot be read.
        """
        if not any(rows):
            return {}
        pixels = [
            [view for place, image in enumerate(row) for view in self.views(image, f"{source}, image {place}")]
            for row, source in zip(rows, sources, strict=True)
        ]
        values, mask = pad_images(pixels)
        batch: dict[str, Tensor] = {"pixel_values": values, "image_mask": mask}
        if self.layout.fixed is None:
            arrangements = [[self.layout.arrangement((image.height, image.width)) for image in row] for row in rows]
            batch["image_layout"] = pack_arrangements(arrangements)
        return batch

    def views(self, image: Image.Image, source: str) -> list[Float[Tensor, "C H W"]]:
        """The pixels of the views of one image in RGB. Raises `DataError` naming `source` where it cannot be read."""
        try:
            return self.layout.cut(image, self.transform)
        except (OSError, ValueError) as error:  # cut off, or of a mode without a known scale
            raise DataError(f"{source} cannot be read: {error}") from error
        except DataError as error:
            raise DataError(f"{source}: {error.message}", error.reasons) from error


def pad_images(
    rows: Sequence[Sequence[Float[Tensor, "C _ _"]]],
) -> tuple[Float[Tensor, "B V C H W"], Bool[Tensor, "B V"]]:
    """The views of each row's images, zeros where a row has fewer or a view is smaller, and which are real.

    One row at least must have a view.
    """
    views = [view for row in rows for view in row]
    most, channels = max(len(row) for row in rows), views[0].shape[0]
    height, width = max(view.shape[1] for view in views), max(view.shape[2] for view in views)
    pixels = torch.zeros(len(rows), most, channels, height, width)
    mask = torch.zeros(len(rows), most, dtype=torch.bool)
    for number, row in enumerate(rows):
        for place, view in enumerate(row):
            pixels[number, place, :, : view.shape[1], : view.shape[2]] = view
            mask[number, place] = True
    return pixels, mask


def pack_arrangements(rows: Sequence[Sequence[Arrangement]]) -> Int[Tensor, "B I 4"]:
    """The arrangements of each row's images as numbers, zeros where a row has fewer images."""
    packed = torch.zeros(len(rows), max(len(row) for row in rows), 4, dtype=torch.long)
    for number, row in enumerate(rows):
        for place, cut in enumerate(row):
            packed[number, place] = torch.tensor([cut.rows, cut.columns, cut.height, cut.width])
    return packed


def unpack_arrangements(packed: Int[Tensor, "B I 4"]) -> list[list[Arrangement]]:
    """The other way round."""
    return [[Arrangement(*numbers) for numbers in row if any(numbers)] for row in packed.tolist()]
