"""Vision keys and values inside a generation cache: computed once, and following every change of the batch.

They are extra layers of transformers' own `Cache`, behind those of the text, so that beam reordering, expansion and
selection reach them; cropping the text does not.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from vlmzoo_registry.compat.transformers import FixedCacheLayer


class VisionCacheLayer(FixedCacheLayer):
    """Hold two tensors of the images of each row; it stands for no position of the text."""


@dataclass(frozen=True)
class VisionMemory:
    """What decoder blocks attend to, and what is needed to say which text sees which image.

    `keys_values` holds one pair per block, image tokens on some axis, the batch first; `seen` the number of images before
    the next text position; `owner` the image of its row that a token belongs to, -1 for padding (L tokens per row at most).
    """

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    seen: Int[Tensor, "B"]
    owner: Int[Tensor, "B L"]

    @property
    def images(self) -> int:
        """How many images the row with the most has."""
        return int(self.owner.max()) + 1

    def store(self, cache: Cache) -> None:
        """Put everything behind the text layers of a cache that has been through one forward, or update it there."""
        pairs = [(self.seen, self.owner), *self.keys_values]
        kept = [layer for layer in cache.layers if not isinstance(layer, VisionCacheLayer)]
        cache.layers[:] = [*kept, *(VisionCacheLayer(keys, values) for keys, values in pairs)]

    @classmethod
    def recall(cls, cache: Cache | None) -> "VisionMemory | None":
        """What `store` put there; None where the cache has seen no image."""
        layers = [] if cache is None else [layer for layer in cache.layers if isinstance(layer, VisionCacheLayer)]
        if not layers or layers[0].keys.shape[0] == 0:
            return None
        first, *blocks = layers
        return cls(tuple((layer.keys, layer.values) for layer in blocks), first.keys, first.values)


def visible_tokens(
    markers: Bool[Tensor, "B S"], memory_seen: Int[Tensor, "B"], owner: Int[Tensor, "B L"], *, last_only: bool
) -> Bool[Tensor, "B S L"]:
    """Which image tokens each text position sees: those of images whose marker stands at it or before it, or of the last."""
    seen = (memory_seen[:, None] + markers.long().cumsum(dim=1))[..., None]  # [B, S, 1] images up to here
    image = owner[:, None]  # [B, 1, L]
    return (image == seen - 1) & (image >= 0) if last_only else (image < seen) & (image >= 0)
