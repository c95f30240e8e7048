"""The options of the toy parts; importable without torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlmzoo_registry import ComponentConfig

Positive = Annotated[int, Field(ge=1)]


class ToyVisionConfig(ComponentConfig):
    """Options of `toy/vision`: a square image of `image_size` pixels in patches of `patch`, through `depth` blocks.

    `class_token` puts one token without a place in front, as CLIP does. `layers`, `final_norm` and `prefix` are those of
    every encoder; several layers are concatenated on the channel in the order given, each normed where `final_norm` is set.
    """

    image_size: Positive = 32
    patch: Positive = 8
    width: Positive = 24
    depth: Positive = 2
    heads: Positive = 2
    class_token: bool = False
    layers: Annotated[tuple[int, ...], Field(min_length=1)] = (-1,)
    final_norm: bool = False
    prefix: Literal["drop", "keep"] = "drop"

    @model_validator(mode="after")
    def _numbers_fit(self) -> "ToyVisionConfig":
        reasons = []
        if self.image_size % self.patch:
            reasons.append(f"`patch` (={self.patch}) must divide `image_size` (={self.image_size})")
        if self.width % self.heads:
            reasons.append(f"`heads` (={self.heads}) must divide `width` (={self.width})")
        for layer in self.layers:
            if not -self.depth <= layer < self.depth:
                reasons.append(f"`layers` names {layer}, and `depth` (={self.depth}) allows {-self.depth} to {self.depth - 1}")
        if reasons:
            raise ValueError("; ".join(reasons))
        return self


class ToyLanguageConfig(ComponentConfig):
    """Options of `toy/language`: a decoder of `depth` layers over bytes.

    Positions are rotary; `learned_positions` gives that many learned ones instead. `control_tokens` are special tokens that
    its tokenizer has besides the bytes, for styles of conversation that need some, such as `<|im_end|>`.
    """

    width: Positive = 32
    depth: Positive = 2
    heads: Positive = 4
    learned_positions: Positive | None = None
    control_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _numbers_fit(self) -> "ToyLanguageConfig":
        if self.width % (2 * self.heads):
            raise ValueError(
                f"`width` (={self.width}) must be divisible by twice `heads` (={2 * self.heads}): rotary positions turn pairs"
            )
        return self
