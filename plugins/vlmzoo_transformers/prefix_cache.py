"""What a decoder keeps of a text that an encoder has read, inside transformers' own cache, where beams and selections reach it.

The cache that generation hands over has one list of layers. Here they are: first the encoder's output with the number of
positions read so far, then the decoder's own keys and values, then those over the encoder's output, which nothing changes.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache

from vlmzoo_registry.compat.transformers import FixedCacheLayer


class ReadLayer(FixedCacheLayer):
    """Hold two tensors that were made when the prefix was read; its length counts all positions that were read since."""


class PrefixMemory:
    """What was read of a prefix, and the decoder's cache over it.

    `encoded` is the encoder's output, padded to the longest prefix, `mask` where it is no padding, and `decoder` the cache of
    both kinds of attention.
    """

    def __init__(self, encoded: Float[Tensor, "B P d"], mask: Bool[Tensor, "B P"], decoder: EncoderDecoderCache | None) -> None:
        self.encoded = encoded
        self.mask = mask
        self.decoder = decoder

    def store(self, cache: Cache, positions: int) -> None:
        """Put everything into `cache`, which then holds `positions` positions of text; what others put behind stays."""
        assert self.decoder is not None
        own = self.decoder.self_attention_cache.layers
        over = [ReadLayer(layer.keys, layer.values, positions) for layer in self.decoder.cross_attention_cache.layers]
        others = cache.layers[1 + 2 * len(own) :] if self._is_stored(cache) else []
        cache.layers[:] = [ReadLayer(self.encoded, self.mask, positions), *own, *over, *others]

    @classmethod
    def recall(cls, cache: Cache, depth: int) -> "PrefixMemory":
        """What `store` put there, for a decoder of `depth` layers. Raises `ValueError` where nothing was read yet."""
        if not cls._is_stored(cache):
            raise ValueError("the cache holds no text that an encoder has read")
        own, over = DynamicCache(), DynamicCache()
        own.layers, over.layers = cache.layers[1 : 1 + depth], cache.layers[1 + depth : 1 + 2 * depth]
        decoder = EncoderDecoderCache(own, over)
        decoder.is_updated = dict.fromkeys(range(depth), True)
        first = cache.layers[0]
        return cls(first.keys, first.values, decoder)

    @staticmethod
    def _is_stored(cache: Cache) -> bool:
        return bool(cache.layers) and isinstance(cache.layers[0], ReadLayer)


def empty_decoder_cache() -> EncoderDecoderCache:
    """A cache of both kinds of attention that grows with use."""
    return EncoderDecoderCache(DynamicCache(), DynamicCache())


def first_rows(mask: Bool[Tensor, "B S"]) -> tuple[Tensor, Bool[Tensor, "B P"]]:
    """Indices [B, P] that bring the marked positions of each row to its front, in order, and which of them are marked."""
    order = (~mask).long().argsort(dim=1, stable=True)
    longest = int(mask.sum(dim=1).max())
    return order[:, :longest], mask.gather(1, order)[:, :longest]


def take(values: Float[Tensor, "B S d"], index: Tensor) -> Float[Tensor, "B P d"]:
    """The vectors at these positions of each row."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def put(target: Float[Tensor, "B S d"], index: Tensor, values: Float[Tensor, "B P d"], where: Tensor) -> Tensor:
    """`target` with `values` at these positions of each row, where `where` says so."""
    rows = torch.arange(len(target), device=target.device)[:, None].expand_as(index)
    return target.index_put((rows[where], index[where]), values[where])
