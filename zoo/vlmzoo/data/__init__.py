"""From samples to batches: ids with labels from character spans, images beside them, in an order that can be resumed."""

from vlmzoo.data.collate import Collator
from vlmzoo.data.encode import ImageToken, encode, encode_prompt, refuse_special_tokens
from vlmzoo.data.padding import pad_rows
from vlmzoo.data.randomness import keyed_generator
from vlmzoo.data.reader import ImageReader, one_marker, pad_images
from vlmzoo.data.stream import BatchStream, Draw, Permutation, Piece, StreamState

__all__ = [
    "BatchStream",
    "Collator",
    "Draw",
    "ImageReader",
    "ImageToken",
    "Permutation",
    "Piece",
    "StreamState",
    "encode",
    "encode_prompt",
    "keyed_generator",
    "one_marker",
    "pad_images",
    "pad_rows",
    "refuse_special_tokens",
]
