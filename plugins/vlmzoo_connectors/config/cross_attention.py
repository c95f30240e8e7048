"""The options of the blocks between the decoder's layers."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlmzoo_connectors.config.common import Activation, Positive, PositiveFloat
from vlmzoo_registry import ComponentConfig


class CrossAttentionConfig(ComponentConfig):
    """Options of `connectors/cross-attention`.

    Where: `every: k` puts a block `before` the decoder layers 0, k, 2k, ... (Flamingo, IDEFICS) or `after` the layers
    k-1, 2k-1, ...; `layers` names them instead. Without either, `every` is 4 (OpenFlamingo-9B).

    What: `form: flamingo` is LayerNorm, bias-free attention, and a feed-forward of two matrices; `form: llama` is RMSNorm,
    grouped-query attention with RMSNorm on queries and keys, and a gated feed-forward of three (Llama-3.2-Vision; with
    `query_key_norm: false` it may be IDEFICS). Left out, `head_width` is 64 (flamingo) or the language width divided by `heads`
    (llama), the feed-forward is 4 times the language width, and `activation` is gelu (flamingo) or silu (llama).

    Who sees what: `attend: last` shows a text position the last image before it, `all` every image before it. `masked_rows:
    zero` leaves positions that see no image exactly as they were; `feedforward` lets the feed-forward run there, as the weights
    of OpenFlamingo and IDEFICS want it; `hf_mllama` reproduces transformers' Mllama, which leaks.

    `gate: vector` learns a gate for each channel instead of one for all (IDEFICS's `alpha_type`).
    """

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    every: Positive | None = Field(default_factory=lambda given: 4 if given.get("layers") is None else None)
    place: Literal["before", "after"] = "before"
    attend: Literal["last", "all"] = "last"
    masked_rows: Literal["zero", "feedforward", "hf_mllama"] = "zero"
    gate: Literal["scalar", "vector"] = "scalar"
    form: Literal["flamingo", "llama"] = "flamingo"
    heads: Positive = 8
    head_width: Positive | None = None
    key_value_heads: Positive | None = None
    query_key_norm: bool | None = None
    feedforward_multiplier: PositiveFloat | None = None
    feedforward_width: Positive | None = None
    activation: Activation | None = None
    norm_epsilon: PositiveFloat = 1e-5

    @model_validator(mode="after")
    def _options_fit(self) -> "CrossAttentionConfig":
        reasons = []
        if (self.every is None) == (self.layers is None):
            given = "neither is given" if self.every is None else f"both are given (every={self.every}, layers={self.layers})"
            reasons.append(f"exactly one of `every` and `layers` says where the blocks go; {given}")
        if self.layers is not None and (not self.layers or tuple(sorted(set(self.layers))) != self.layers):
            reasons.append(f"`layers` (={list(self.layers)}) must name at least one layer, ascending, each once")
        if self.form == "flamingo":
            for name in ("key_value_heads", "query_key_norm"):
                value = getattr(self, name)
                if value is not None:
                    reasons.append(f"`{name}` (={value}) is read with `form: llama` only, not with `form: flamingo`")
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            reasons.append(f"`heads` (={self.heads}) must be divisible by `key_value_heads` (={self.key_value_heads})")
        if self.feedforward_multiplier is not None and self.feedforward_width is not None:
            reasons.append(
                f"`feedforward_multiplier` (={self.feedforward_multiplier}) and `feedforward_width` "
                f"(={self.feedforward_width}) say the same thing; give one"
            )
        if reasons:
            raise ValueError("; ".join(reasons))
        return self
