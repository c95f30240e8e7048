"""A rough figure of what a forward pass keeps for the backward pass, from nothing but the sizes of blocks.

For a plan that asks whether a stage fits at all: a factor of two in either direction is possible, so it is said apart from
what is counted exactly.
"""

from collections.abc import Sequence
from math import sqrt

from torch import nn

from vlmzoo.assemble import Parts
from vlmzoo_registry import AssemblyError

TEXT_TOKENS = 256
"""How many tokens of text a sample is taken to have beside its image."""

_BYTES = {"bf16": 34, "float32": 68}
"""Per token and unit of width in one block, with attention computed piece by piece (arXiv:2205.05198, table 2)."""


def activation_bytes(parts: Parts, *, views: int, slots: int, samples: int, precision: str, vision_trains: bool) -> int:
    """What `samples` samples of one image and `TEXT_TOKENS` tokens of text keep in the blocks of the parts.

    The language model keeps its activations even where it is frozen: the gradient of a connector passes through it. An encoder
    that is frozen keeps none. Connectors are small, and recomputation is not looked at.
    """
    found = samples * (slots + TEXT_TOKENS) * _per_token(_decoder_blocks(parts), precision)
    if vision_trains:
        found += samples * views * parts.shapes[0].count * _per_token(_encoder_blocks(parts), precision)
    return found


def _per_token(blocks: Sequence[nn.Module], precision: str) -> int:
    """Of each block, taken for a transformer's of 12 width^2 parameters."""
    widths = (sqrt(sum(parameter.numel() for parameter in block.parameters()) / 12) for block in blocks)
    return round(_BYTES[precision] * sum(widths))


def _decoder_blocks(parts: Parts) -> Sequence[nn.Module]:
    try:
        return parts.language.decoder_layers
    except AssemblyError:  # a model without one list of layers: all of it is taken for one per layer of its config
        return [parts.language]


def _encoder_blocks(parts: Parts) -> Sequence[nn.Module]:
    try:
        return parts.vision.encoder_blocks
    except AssemblyError:
        return [parts.vision]
