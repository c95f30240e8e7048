"""A rough figure of what a forward pass keeps for the backward pass, from nothing but the sizes of blocks.

For a plan that asks whether a stage fits at all: a factor of two in either direction is possible, so it is said apart from
what is counted exactly.
"""

from math import sqrt

from vlmzoo.assemble import Parts
from vlmzoo_registry import AssemblyError, LanguageModel, VisionEncoder

TEXT_TOKENS = 256
"""How many tokens of text a sample is taken to have beside its image."""

_BYTES = {"bf16": 34, "float32": 68}
"""Per token and unit of width in one block, with attention computed piece by piece (arXiv:2205.05198, table 2)."""


def activation_bytes(parts: Parts, *, views: int, tokens: int, precision: str, vision_trains: bool) -> int:
    """What so many views of images and tokens of the text keep in the blocks of the parts.

    The language model keeps its activations even where it is frozen: the gradient of a connector passes through it. An encoder
    that is frozen keeps none. Connectors are small, and recomputation is not looked at.
    """
    found = tokens * _in_decoder(parts.language)
    if vision_trains:
        found += views * parts.shapes[0].count * _in_encoder(parts.vision)
    return round(_BYTES[precision] * found)


def _in_decoder(language: LanguageModel) -> float:
    """The widths of all layers, taken for a transformer's of 12 width^2 parameters; embedding and head left out."""
    layers = language.text_config.num_hidden_layers
    outer = {id(parameter) for module in (language.embedding, language.head) for parameter in module.parameters()}
    inner = sum(parameter.numel() for parameter in language.parameters() if id(parameter) not in outer)
    return layers * sqrt(inner / layers / 12)


def _in_encoder(vision: VisionEncoder) -> float:
    """The same for an encoder, block by block."""
    try:
        blocks = vision.encoder_blocks
    except AssemblyError:  # it names none: all of it is taken for one
        blocks = [vision]
    return sum(sqrt(sum(parameter.numel() for parameter in block.parameters()) / 12) for block in blocks)
