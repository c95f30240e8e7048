"""The options that every vision encoder of this project has: what is taken from it, and how images come to its pixels.

Encoders of other plugins may derive their configs from it too, so that one option has one name and one meaning.
"""

from typing import Annotated, Literal

from pydantic import Field

from vlmzoo_registry.config import ComponentConfig

Pixels = Annotated[int, Field(ge=1)]


class EncoderOptions(ComponentConfig):
    """Derive the config of a vision encoder from this; preprocessing that is left out is the model's own."""

    layers: tuple[int, ...] = Field(
        default=(-1,),
        min_length=1,
        description="The blocks (of a hierarchical model: stages) whose outputs are taken, negative from the end; several are "
        "concatenated on the channel, in this order.",
    )
    final_norm: bool = Field(default=False, description="Whether the model's last norm is applied to every layer taken.")
    prefix: Literal["drop", "keep"] | None = Field(
        default=None,
        description="What happens to leading tokens that are not patches; default: they are dropped, where there are any.",
    )
    image_size: Pixels | tuple[Pixels, Pixels] | None = Field(
        default=None,
        description="Pixels per side, or [height, width]; position embeddings are interpolated to it as the library does it.",
    )
    mean: tuple[float, float, float] | None = Field(default=None, description="Pixel mean on [0, 1].")
    std: tuple[float, float, float] | None = Field(default=None, description="Pixel deviation on [0, 1].")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = Field(
        default=None, description="Pillow filter."
    )
    resize: Literal["squash", "crop", "pad"] | None = Field(default=None, description="How an image comes to its size.")
    crop_fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="The share of each side that is cut out of the resized image, with `resize: crop` or `squash`.",
    )

    def prefix_misfit(self, tokens: int, name: str) -> str | None:
        """Why `prefix` cannot be had in the model of this name, with so many leading tokens; None where it can."""
        if self.prefix is None or tokens > 0:
            return None
        return f"`prefix: {self.prefix}`: {name} has no prefix token to {self.prefix} (leave `prefix` out)"

    @property
    def size(self) -> tuple[int, int] | None:
        """`image_size` as (height, width)."""
        if self.image_size is None or isinstance(self.image_size, tuple):
            return self.image_size
        return (self.image_size, self.image_size)
