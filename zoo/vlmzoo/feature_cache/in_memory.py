"""Features kept while a model is asked: each image is encoded once, however many rows and questions show it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vlmzoo.data.reader import ImageReader, Opener, pack_arrangements
from vlmzoo.feature_cache.content import LookedUp
from vlmzoo.feature_cache.reader import pad_features
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import Arrangement, ImageText

MOST_BYTES = 2**28
"""Features are kept up to so many bytes; what comes after that is encoded whenever it is shown."""


class EncodingReader:
    """Stands in for an `ImageReader`: `read` has `vision_features` in place of `pixel_values`, all else is the same.

    The encoder runs as it is, in evaluation mode or not, so that nothing may train while this is in use.
    """

    def __init__(self, model: VLM, reader: ImageReader, *, most_bytes: int = MOST_BYTES) -> None:
        self._model, self._reader, self._left = model, reader, most_bytes
        self._pictures: dict[int, LookedUp] = {}  # by the opener, which stays alive in it
        self._kept: dict[str, Float[Tensor, "_ _ D"]] = {}

    @property
    def text(self) -> Callable[[Arrangement], ImageText]:
        """What stands for an image in the text."""
        return self._reader.text

    def once(self, image: Opener) -> LookedUp:
        """The same image; one and the same object whenever it is asked for the same opener."""
        return image if isinstance(image, LookedUp) else self._pictures.setdefault(id(image), LookedUp(image))

    def slots(self, arrangement: Arrangement) -> list[int]:
        """The runs of slots that stand for an image in the text."""
        return self._reader.slots(arrangement)

    def count(self, arrangement: Arrangement) -> int:
        """How many views the encoder sees of an image."""
        return self._reader.count(arrangement)

    def arrangement(self, image: Opener, source: str) -> Arrangement:
        """How an image is cut. Raises `DataError` naming `source` for one that cannot be read or cut."""
        return self._reader.arrangement(self.once(image).image, source)

    def read(self, rows: Sequence[Sequence[Opener]], sources: Sequence[str]) -> dict[str, Tensor]:
        """`vision_features`: Float[B, V, N, D], `image_mask` and, where images differ in it, `image_layout`.

        Nothing where no row has an image. Raises `DataError` naming the source of the row whose image cannot be read.
        """
        if not any(rows):
            return {}
        places = [
            [(self.once(image), f"{source}, image {place}") for place, image in enumerate(row)]
            for row, source in zip(rows, sources, strict=True)
        ]
        seen = self._features([pair for row in places for pair in row])
        features, mask = pad_features([[seen[picture.content] for picture, _ in row] for row in places])
        batch: dict[str, Tensor] = {"vision_features": features, "image_mask": mask}
        if self._reader.layout.fixed is None:
            batch["image_layout"] = pack_arrangements(
                [[self.arrangement(picture, where) for picture, where in row] for row in places]
            )
        return batch

    def _features(self, pictures: Sequence[tuple[LookedUp, str]]) -> dict[str, Float[Tensor, "_ _ D"]]:
        """The tokens of the views of each picture, by its content; the new ones go through the encoder together."""
        found = {picture.content: self._kept.get(picture.content) for picture, _ in pictures}
        views: dict[str, Float[Tensor, "V C H W"]] = {}
        for picture, source in pictures:
            if found[picture.content] is None and picture.content not in views:
                views[picture.content] = torch.stack(self._reader.views(picture(), source))
        for known, tokens in self._encoded(views).items():
            found[known] = tokens
            size = tokens.numel() * tokens.element_size()
            if size <= self._left:
                self._left -= size
                self._kept[known] = tokens
        return {known: tokens for known, tokens in found.items() if tokens is not None}

    def _encoded(self, views: dict[str, Float[Tensor, "_ C _ _"]]) -> dict[str, Float[Tensor, "_ _ D"]]:
        """Views of one size go through the encoder together."""
        encoded: dict[str, Tensor] = {}
        for size in dict.fromkeys(image.shape[2:] for image in views.values()):
            these = [known for known, image in views.items() if image.shape[2:] == size]
            with torch.inference_mode():
                pixels = torch.cat([views[known] for known in these]).to(self._model.device)
                tokens = self._model.see(pixels).tokens.cpu()  # [views of this size, N, D]
            # Copies: a piece of a batch would keep all of the batch.
            pieces = [piece.clone() for piece in tokens.split([len(views[known]) for known in these])]
            encoded.update(zip(these, pieces, strict=True))
        return encoded
