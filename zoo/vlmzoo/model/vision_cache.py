"""Vision keys and values inside a generation cache: computed once, and following every change of the batch.

They are extra layers of transformers' own `Cache`, behind those of the text, so that beam reordering, expansion and
selection reach them; cropping the text does not.
"""

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin


class VisionCacheLayer(CacheLayerMixin):
    """Two tensors with the batch first that no text step changes."""

    keys: Tensor
    values: Tensor
    is_sliding = False
    is_croppable = True
    is_compileable = False
    supports_early_init = False

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Not needed: the layer is made with its contents."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        """A decoder layer never writes here; reaching this means that cache layers were mixed up."""
        raise RuntimeError("a decoder layer tried to write into the vision part of the cache")

    def get_seq_length(self) -> int:
        """No text positions are held here."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """No text positions are held here."""
        return query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No maximum (the older name)."""
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        """Text tokens are removed, images stay."""

    def reset(self) -> None:
        """Forgetting the text forgets the images: an emptied cache is read as one without any."""
        self.keys, self.values = self.keys[:0], self.values[:0]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        self.batch_select_indices(beam_idx.to(self.keys.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Follow the expansion of the batch."""
        self.keys = self.keys.repeat_interleave(repeats, dim=0)
        self.values = self.values.repeat_interleave(repeats, dim=0)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Follow a selection of rows."""
        self.keys, self.values = self.keys[indices], self.values[indices]


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
