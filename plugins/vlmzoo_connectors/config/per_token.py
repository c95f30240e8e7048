"""The options of connectors that map each token by itself."""

from typing import Literal

from pydantic import model_validator

from vlmzoo_connectors.config.common import Activation, Positive, PositiveFloat
from vlmzoo_registry import ComponentConfig


class IdentityConfig(ComponentConfig):
    """Options of `connectors/identity`: none."""


class LinearConfig(ComponentConfig):
    """Options of `connectors/linear`.

    `width` is the width that comes out within a chain (Mistral-Small-3.1 maps merged patches back to the vision width); left
    out, it is that of the language model.
    """

    bias: bool = True
    width: Positive | None = None


class NormConfig(ComponentConfig):
    """Options of `connectors/norm`.

    `layer` is LayerNorm; `rms` is RMSNorm (Mistral-Small-3.1); `rms_offset` is RMSNorm with the weight 1 + w, w starting at 0
    (Gemma-3).
    """

    kind: Literal["layer", "rms", "rms_offset"] = "layer"
    norm_epsilon: PositiveFloat = 1e-6


class MlpConfig(ComponentConfig):
    """Options of `connectors/mlp`; the defaults are LLaVA-1.5's `mlp2x_gelu`.

    `depth` counts the matrices; `activation` stands between them (`gelu` is the exact one), and after the last one too with
    `output_activation` (Llama-4's, within a chain). Hidden layers are as wide as the output, or `hidden_width`; with
    `hidden_factor` the first of them is that many times the input width, rounded (Prismatic's `fused-gelu-mlp` is depth 3,
    factor 4; Qwen2-VL's merger depth 2, factor 1). `width` is the width that comes out within a chain; left out, it is that of
    the language model.

    `gated` has three matrices around one hidden layer: down(activation(gate(x)) * up(x)) (Idefics2, Molmo; Aya Vision keeps
    up and gate in one matrix, up first).

    `input_norm: layer` is a LayerNorm before the first matrix (InternVL, ViP-LLaVA); `plain` one without weights, which
    stands high learning rates better. `output_norm` is a LayerNorm after the last: `layer` starts at weight 1,
    `layer_scaled` at `output_scale`, to be set to the standard deviation of the language model's embeddings, so that image
    tokens start as loud as text.
    """

    depth: Positive = 2
    activation: Activation = "gelu"
    output_activation: bool = False
    gated: bool = False
    hidden_width: Positive | None = None
    hidden_factor: PositiveFloat | None = None
    width: Positive | None = None
    bias: bool = True
    input_norm: Literal["none", "layer", "plain"] = "none"
    output_norm: Literal["none", "layer", "layer_scaled"] = "none"
    output_scale: PositiveFloat | None = None
    norm_epsilon: PositiveFloat = 1e-5

    @model_validator(mode="after")
    def _every_option_is_read(self) -> "MlpConfig":
        reasons = []
        if self.output_norm == "layer_scaled" and self.output_scale is None:
            reasons.append("`output_norm: layer_scaled` needs `output_scale`, the weight its LayerNorm starts with")
        if self.output_norm != "layer_scaled" and self.output_scale is not None:
            reasons.append(
                f"`output_scale` (={self.output_scale}) is read with `output_norm: layer_scaled` only, not with "
                f"`output_norm: {self.output_norm}`"
            )
        for name, value in (("hidden_width", self.hidden_width), ("hidden_factor", self.hidden_factor)):
            if self.depth == 1 and value is not None:
                reasons.append(f"`{name}` (={value}) needs a `depth` of at least 2 (is {self.depth})")
        if self.hidden_width is not None and self.hidden_factor is not None:
            reasons.append(
                f"`hidden_width` (={self.hidden_width}) and `hidden_factor` (={self.hidden_factor}) both say how wide the "
                "first hidden layer is; give one"
            )
        if self.gated and self.depth != 2:
            reasons.append(f"`gated` has one hidden layer, which is `depth` 2 (is {self.depth})")
        if reasons:
            raise ValueError("; ".join(reasons))
        return self
