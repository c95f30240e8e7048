"""Which grids a connector takes, and which grid comes out: told before anything runs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import ceil

from vlmzoo_registry import Grid


class GridRule(ABC):
    """Implement this to say what a connector makes of a grid."""

    @abstractmethod
    def misfits(self, grid: Grid) -> list[str]:
        """Why this grid cannot be taken; nothing where it can."""

    @abstractmethod
    def output(self, grid: Grid) -> Grid:
        """The grid that comes out for one that is taken."""


@dataclass(frozen=True)
class Divided(GridRule):
    """Each side divided by a number, which the config calls `option`; a rest makes one more with `pad`, else it is refused."""

    rows: int
    columns: int
    option: str
    pad: bool

    def misfits(self, grid: Grid) -> list[str]:
        """A rest, where it is not padded."""
        if self.pad or not (grid[0] % self.rows or grid[1] % self.columns):
            return []
        number = self.rows if self.rows == self.columns else f"{self.rows}x{self.columns}"
        return [f"`{self.option}` (={number}) must divide both sides of the grid ({grid[0]}x{grid[1]})"]

    def output(self, grid: Grid) -> Grid:
        """Both sides divided, rounded up."""
        return ceil(grid[0] / self.rows), ceil(grid[1] / self.columns)


@dataclass(frozen=True)
class Fixed(GridRule):
    """One grid, whatever comes in; `only` is the one grid that is taken, where positions were learned for it."""

    grid: Grid
    only: Grid | None = None

    def misfits(self, grid: Grid) -> list[str]:
        """Another grid than the one that positions were learned for."""
        if self.only in (None, grid):
            return []
        return [f"its positions are those of the grid {_written(self.only)}, and {_written(grid)} comes in"]

    def output(self, grid: Grid) -> Grid:
        """The one grid."""
        return self.grid


def _written(grid: Grid | None) -> str:
    return "none" if grid is None else f"{grid[0]}x{grid[1]}"
