"""Folds factor x factor neighbouring tokens into the channels of one: fewer image tokens at the price of wider ones.

InternVL-1.5 (arXiv:2404.16821, section 3.1), Idefics3 (arXiv:2408.12637, section 2.2).
"""

from vlmzoo_connectors.config import PixelShuffleConfig
from vlmzoo_registry import AssemblyError, Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class PixelShuffle(Connector):
    """[B, h*w, c] -> [B, (h/f)*(w/f), f*f*c], row-major before and after; it has no parameters."""

    def __init__(self, config: PixelShuffleConfig, context: ConnectorContext) -> None:
        super().__init__()
        self.factor = config.factor
        self.order = config.order
        self._input_width = context.input.width
        self._output_width = context.input.width * config.factor**2

        reasons = self._misfits(context.input.grid, context.input.prefix)
        if context.output_width not in (None, self._output_width):
            reasons.append(
                f"it puts out width {self._output_width} (= {config.factor} x {config.factor} x {context.input.width}) where "
                f"{context.output_width} is needed: let `connectors/linear` or `connectors/mlp` follow it"
            )
        if reasons:
            raise AssemblyError(f"`connectors/pixel-shuffle` does not fit to {context.input}", reasons)

    def _misfits(self, grid: Grid | None, prefix: int) -> list[str]:
        reasons = []
        if grid is None:
            reasons.append(
                "it folds neighbours, and these tokens have no grid: put it before the connector that drops the grid"
            )
        elif grid[0] % self.factor or grid[1] % self.factor:
            reasons.append(f"`factor` (={self.factor}) must divide both sides of the grid ({grid[0]}x{grid[1]})")
        if prefix:
            reasons.append(
                f"it takes 0 prefix tokens and {prefix} come in, which have no neighbours: set `prefix: drop` in the encoder"
            )
        return reasons

    @property
    def output_width(self) -> int:
        """factor x factor x the width that comes in."""
        return self._output_width

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid divided by `factor`; raises `AssemblyError` where that leaves a rest, or where there is no grid."""
        reasons = self._misfits(grid, 0)
        if reasons or grid is None:
            raise AssemblyError("`connectors/pixel-shuffle` cannot take this grid", reasons)
        return grid[0] // self.factor, grid[1] // self.factor

    def token_count(self, grid: Grid | None, count: int) -> int:
        """One for each factor x factor neighbours; raises `AssemblyError` where that leaves a rest, or for a prefix."""
        prefix = 0 if grid is None else count - grid[0] * grid[1]
        reasons = self._misfits(grid, prefix)
        if reasons:
            raise AssemblyError("`connectors/pixel-shuffle` cannot take these tokens", reasons)
        return count // self.factor**2

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, h*w, c] -> [B, (h/f)*(w/f), f*f*c]; raises `AssemblyError` for a grid or prefix it cannot take."""
        check_tokens("connectors/pixel-shuffle", "tokens", features.tokens, self._input_width)
        grid = self.output_grid(features.grid)
        self.token_count(features.grid, features.tokens.shape[1])
        assert grid is not None
        (rows, columns), factor = grid, self.factor
        batch, _, width = features.tokens.shape
        blocks = features.tokens.reshape(batch, rows, factor, columns, factor, width)  # B h' dy w' dx c
        if self.order == "dy_dx_c":
            blocks = blocks.permute(0, 1, 3, 2, 4, 5)
        else:
            blocks = blocks.permute(0, 1, 3, 5, 2, 4)
        return VisionFeatures(blocks.reshape(batch, rows * columns, self._output_width), grid)
