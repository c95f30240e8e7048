"""From the images of samples to their features: what a collator reads in place of pixels, in a stage that keeps them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vlmzoo.data.reader import ImageReader, Opener, pack_arrangements
from vlmzoo.feature_cache.content import LookedUp, content
from vlmzoo.feature_cache.store import FeatureStore
from vlmzoo_registry import Arrangement, DataError, ImageText


@dataclass(frozen=True)
class FeatureReader:
    """Stands in for an `ImageReader`: `batch` has `vision_features` in place of `pixel_values`, all else is the same.

    No image is decoded: an arrangement follows from the size, which is kept with the features.
    """

    reader: ImageReader
    store: FeatureStore

    def once(self, image: Opener) -> Opener:
        """The same image, whose bytes are read at most once."""
        return LookedUp(image)

    @property
    def text(self) -> Callable[[Arrangement], ImageText]:
        """What stands for an image in the text."""
        return self.reader.text

    def slots(self, arrangement: Arrangement) -> list[int]:
        """The runs of slots that stand for an image in the text."""
        return self.reader.slots(arrangement)

    def count(self, arrangement: Arrangement) -> int:
        """How many views the encoder sees of an image."""
        return self.reader.count(arrangement)

    def arrangement(self, image: Opener, source: str) -> Arrangement:
        """How an image is cut. Raises `DataError` naming `source` for one that is not kept, or that cannot be cut."""
        if self.reader.layout.fixed is not None:
            return self.reader.layout.fixed
        size = self.store.size(_content(image))
        if size is None:
            raise _unknown(source)
        try:
            return self.reader.layout.arrangement(size)
        except DataError as error:
            raise DataError(f"{source}: {error.message}", error.reasons) from error

    def read(self, rows: Sequence[Sequence[Opener]], sources: Sequence[str]) -> dict[str, Tensor]:
        """`vision_features`, `image_mask` and, where images differ in it, `image_layout`; nothing where no row has an image.

        `vision_features` is Float[B, V, N, D]: the tokens of each row's views, zeros where a row has fewer views or a view
        fewer tokens. Raises `DataError` naming the source of the row whose image is not kept.
        """
        if not any(rows):
            return {}
        cuts = [
            [self.arrangement(image, f"{source}, image {place}") for place, image in enumerate(row)]
            for row, source in zip(rows, sources, strict=True)
        ]
        tokens = [
            [
                self._tokens(image, cut, f"{source}, image {place}")
                for place, (image, cut) in enumerate(zip(row, cut_row, strict=True))
            ]
            for row, cut_row, source in zip(rows, cuts, sources, strict=True)
        ]
        features, mask = pad_features(tokens)
        batch: dict[str, Tensor] = {"vision_features": features, "image_mask": mask}
        if self.reader.layout.fixed is None:
            batch["image_layout"] = pack_arrangements(cuts)
        return batch

    def _tokens(self, image: Opener, arrangement: Arrangement, source: str) -> Float[Tensor, "_ _ D"]:
        known = _content(image)
        if (known, arrangement) not in self.store:
            raise _unknown(source)
        return self.store.read(known, arrangement)


def pad_features(
    rows: Sequence[Sequence[Float[Tensor, "_ _ D"]]],
) -> tuple[Float[Tensor, "B V N D"], Bool[Tensor, "B V"]]:
    """The tokens of each row's images, view by view, zeros where a row or a view has fewer, and which views are real.

    One row at least must have an image.
    """
    images = [image for row in rows for image in row]
    most = max(sum(len(image) for image in row) for row in rows)
    features = images[0].new_zeros(len(rows), most, max(image.shape[1] for image in images), images[0].shape[2])
    mask = torch.zeros(len(rows), most, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = 0
        for image in row:
            features[number, place : place + len(image), : image.shape[1]] = image
            mask[number, place : place + len(image)] = True
            place += len(image)
    return features, mask


def _content(image: Opener) -> str:
    return image.content if isinstance(image, LookedUp) else content(image)


def _unknown(source: str) -> DataError:
    return DataError(
        f"{source}: no features are kept of this image, so it is not the one that was there when the stage began: put it back, "
        "or start the same command again, which encodes what is new"
    )
