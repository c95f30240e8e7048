"""The options of the layouts, in a module of their own: reading them imports nothing heavy."""

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from vlmzoo_registry.config import ComponentConfig


class AnyresConfig(ComponentConfig):
    """Options of `anyres`.

    `grids`: the grids of tiles to choose from, each [rows, columns]; of two that fit an image alike the first is taken.
    `newline`: a learnt token stands at the end of every row of tokens. `unpad`: tokens that show padding alone are left out.
    `max_tiles`: where more tokens than those of that many tiles are left, they are shrunk to about as many.
    """

    grids: Annotated[tuple[tuple[PositiveInt, PositiveInt], ...], Field(min_length=1)] = (
        (1, 2),
        (2, 1),
        (2, 2),
        (3, 1),
        (1, 3),
    )
    newline: bool = True
    unpad: bool = True
    max_tiles: PositiveInt | None = None


class DynamicTilesConfig(ComponentConfig):
    """Options of `dynamic-tiles`: how many tiles an image has, and whether a view of the whole image follows them."""

    min_tiles: PositiveInt = 1
    max_tiles: PositiveInt = 12
    thumbnail: bool = True

    @model_validator(mode="after")
    def _in_order(self) -> "DynamicTilesConfig":
        if self.min_tiles > self.max_tiles:
            raise ValueError(f"`min_tiles` (={self.min_tiles}) must not be more than `max_tiles` (={self.max_tiles})")
        return self


class SplitConfig(ComponentConfig):
    """Options of `split`: to how many pixels the longer side of an image is scaled; default: 4 times a view."""

    longest_edge: PositiveInt | None = None


class NativeConfig(ComponentConfig):
    """Options of `native`: how many pixels the longer side of an image has at most; default: the size of the encoder."""

    longest_edge: PositiveInt | None = None


class CanvasConfig(ComponentConfig):
    """Options of `canvas`: how many tiles a canvas has at most."""

    max_tiles: PositiveInt = 4


class TaggedTilesConfig(ComponentConfig):
    """Options of `tagged-tiles`: how many tiles an image has at most, the view of the whole image not counted."""

    max_tiles: PositiveInt = 6


class KeepRatioConfig(ComponentConfig):
    """Options of `keep-ratio`: how many pixels the longer side of an image has at most, and each side at least.

    `patch` is the side of the encoder's patches in pixels: of each side, what is over whole patches is cut off.
    """

    shortest_edge: PositiveInt = 378
    longest_edge: PositiveInt = 980
    patch: PositiveInt = 14

    @model_validator(mode="after")
    def _in_order(self) -> "KeepRatioConfig":
        if not self.patch <= self.shortest_edge <= self.longest_edge:
            raise ValueError(
                f"`patch` (={self.patch}), `shortest_edge` (={self.shortest_edge}) and `longest_edge` (={self.longest_edge}) "
                "must ascend"
            )
        return self
