"""The options of connectors in which learned queries gather what is in the image tokens."""

from pydantic import model_validator

from vlmzoo_connectors.config.common import Activation, Positive, PositiveFloat
from vlmzoo_registry import ComponentConfig


class ResamplerConfig(ComponentConfig):
    """Options of `connectors/resampler`; the defaults are OpenFlamingo's.

    `query_key_norm` is a LayerNorm on the queries and keys of each head (IDEFICS).
    """

    queries: Positive = 64
    depth: Positive = 6
    heads: Positive = 8
    head_width: Positive = 64
    query_key_norm: bool = False
    feedforward_multiplier: Positive = 4
    activation: Activation = "gelu"
    norm_epsilon: PositiveFloat = 1e-5


class PerceiverConfig(ComponentConfig):
    """Options of `connectors/perceiver`; the defaults are Idefics2's, which has a gated `connectors/mlp` before it."""

    queries: Positive = 64
    depth: Positive = 3
    heads: Positive = 16
    key_value_heads: Positive = 4
    head_width: Positive = 96
    feedforward_multiplier: Positive = 4
    activation: Activation = "silu"
    norm_epsilon: PositiveFloat = 1e-6

    @model_validator(mode="after")
    def _heads_fit(self) -> "PerceiverConfig":
        if self.heads % self.key_value_heads:
            raise ValueError(f"`heads` (={self.heads}) must be divisible by `key_value_heads` (={self.key_value_heads})")
        return self


class QFormerConfig(ComponentConfig):
    """Options of `connectors/q-former`; the defaults are BLIP-2's, whose layers are those of BERT-base.

    Layers 0, k, 2k, ... (`cross_attention_every: k`) attend to the image tokens. `feedforward_width` is the width within
    a layer.
    """

    queries: Positive = 32
    depth: Positive = 12
    width: Positive = 768
    heads: Positive = 12
    feedforward_width: Positive = 3072
    cross_attention_every: Positive = 2
    norm_epsilon: PositiveFloat = 1e-12

    @model_validator(mode="after")
    def _heads_fit(self) -> "QFormerConfig":
        if self.width % self.heads:
            raise ValueError(f"`heads` (={self.heads}) must divide `width` (={self.width})")
        return self


class InstructedQFormerConfig(QFormerConfig):
    """Options of `connectors/instructed-q-former`; the defaults are InstructBLIP's.

    `tokenizer` is a pretrained id or a local folder (InstructBLIP's: BERT's with `[DEC]` added, 30523 words); without one there
    is a token for each byte. `vocabulary` is the number of words that have an embedding, `positions` the longest instruction in
    tokens.
    """

    tokenizer: str | None = None
    vocabulary: Positive = 30523
    positions: Positive = 512


class CrossAttentionResamplerConfig(ComponentConfig):
    """Options of `connectors/cross-attention-resampler`; the defaults are Qwen-VL's.

    `grid` x `grid` learned queries; it works in the width that comes out, in heads of `head_width`.
    """

    grid: Positive = 16
    head_width: Positive = 128
    norm_epsilon: PositiveFloat = 1e-6
