"""What flows between parts, described before it runs: width, places and count of vision tokens."""

from dataclasses import dataclass

Grid = tuple[int, int]


@dataclass(frozen=True)
class FeatureShape:
    """The shape of the features of one image.

    `width` is the size of a token; `count` the number of tokens; `grid` (rows, columns) the places of the patch tokens, or
    None where tokens have no place (the latents of a resampler); `prefix` the number of leading tokens without a place
    (CLIP's class token). Where there is a grid, `count == prefix + rows * columns`.
    """

    width: int
    count: int
    grid: Grid | None
    prefix: int = 0

    def __post_init__(self) -> None:
        if self.grid is not None and self.count != self.prefix + self.grid[0] * self.grid[1]:
            raise ValueError(
                f"`count` (={self.count}) must be `prefix` (={self.prefix}) + rows x columns of `grid` (={self.grid})"
            )

    def __str__(self) -> str:
        places = "no grid" if self.grid is None else f"grid {self.grid[0]}x{self.grid[1]}"
        return f"{self.count} tokens of width {self.width} ({places}, prefix {self.prefix})"
