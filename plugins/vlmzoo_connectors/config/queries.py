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
