"""From samples to batches: ids with labels from character spans, images beside them, in an order that can be resumed."""

from vlmzoo.data.collate import Collator, pad_images, pad_rows
from vlmzoo.data.encode import Encoded, ImageToken, encode, encode_prompt, refuse_special_tokens
from vlmzoo.data.randomness import keyed_generator
from vlmzoo.data.stream import Draw, SampleStream, StreamState

__all__ = [
    "Collator",
    "Draw",
    "Encoded",
    "ImageToken",
    "SampleStream",
    "StreamState",
    "encode",
    "encode_prompt",
    "keyed_generator",
    "pad_images",
    "pad_rows",
    "refuse_special_tokens",
]
