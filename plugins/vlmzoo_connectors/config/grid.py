"""The options of connectors that make fewer tokens out of neighbours on the grid."""

from typing import Literal

from pydantic import model_validator

from vlmzoo_connectors.config.common import Factor, Positive, Sides
from vlmzoo_registry import ComponentConfig


class PixelShuffleConfig(ComponentConfig):
    """Options of `connectors/pixel-shuffle`.

    `factor` x `factor` neighbours become one token, or `[rows, columns]` of them (MiniGPT-v2 joins 1 x 4). `order` is the order
    of the channels that come out: `dy_dx_c` has the neighbours' channels one neighbour after the other (Idefics3, SmolVLM,
    InternVL), `c_dy_dx` has the neighbours of one channel side by side (Mistral-Small-3.1's patch merger). A grid that `factor`
    does not divide is refused; with `pad` it is filled up with zeros at the bottom and at the right (NVILA, Ovis2).
    """

    factor: Factor | Sides = 2
    order: Literal["dy_dx_c", "c_dy_dx"] = "dy_dx_c"
    pad: bool = False

    @model_validator(mode="after")
    def _folds_something(self) -> "PixelShuffleConfig":
        if self.factor == (1, 1):
            raise ValueError("`factor` (=[1, 1]) folds nothing: one of its sides must be at least 2")
        return self


class AveragePoolConfig(ComponentConfig):
    """Options of `connectors/average-pool`: the mean of `kernel` x `kernel` neighbours becomes one token (Gemma-3: 4)."""

    kernel: Factor = 2


class AdaptivePoolConfig(ComponentConfig):
    """Options of `connectors/adaptive-pool`: means over (nearly) equal parts give `grid` (rows, columns), whatever comes in."""

    grid: Sides


class InterpolateConfig(ComponentConfig):
    """Options of `connectors/interpolate`.

    Either `grid` (rows, columns) says what comes out, or `factor` by how much each side shrinks, rounded up (LLaVA-OneVision
    shrinks the frames of a video by 2). `mode: bilinear` looks at the four neighbours only, as torch does without antialiasing.
    """

    grid: Sides | None = None
    factor: Factor | None = None
    mode: Literal["bilinear", "nearest"] = "bilinear"

    @model_validator(mode="after")
    def _one_says_the_size(self) -> "InterpolateConfig":
        if (self.grid is None) == (self.factor is None):
            given = "neither is given" if self.grid is None else f"both are given (grid={self.grid}, factor={self.factor})"
            raise ValueError(f"exactly one of `grid` and `factor` says what comes out; {given}")
        return self


class AttentionPoolConfig(ComponentConfig):
    """Options of `connectors/attention-pool`; the defaults are Molmo's over CLIP ViT-L.

    The mean of `factor` x `factor` neighbours asks, the neighbours answer. What comes out is `width` wide; left out, that is
    the width that what follows needs, or else `heads` x `head_width`. A grid that `factor` does not divide is refused; with
    `pad` the windows at the bottom and at the right have fewer neighbours (Molmo-2).
    """

    factor: Factor = 2
    heads: Positive = 16
    head_width: Positive = 64
    key_value_heads: Positive | None = None
    width: Positive | None = None
    bias: bool = True
    pad: bool = False

    @model_validator(mode="after")
    def _heads_fit(self) -> "AttentionPoolConfig":
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(f"`heads` (={self.heads}) must be divisible by `key_value_heads` (={self.key_value_heads})")
        return self
