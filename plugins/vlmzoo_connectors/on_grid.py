"""The connector whose module works on the tokens as a map: neighbours are folded, pooled or convolved."""

from torch import nn

from vlmzoo_connectors.grid_rule import GridRule
from vlmzoo_connectors.widths import width_misfit
from vlmzoo_registry import AssemblyError, Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class OnGrid(Connector):
    """`module` maps [B, width in, rows, columns] to [B, `output_width`, rows, columns] of the grid that `rule` tells.

    To be returned by the factory of a connector; not to be derived from. Tokens are row-major before and after. It takes no
    prefix tokens and needs a grid; raises `AssemblyError` with every reason why it does not fit.
    """

    def __init__(self, name: str, module: nn.Module, rule: GridRule, context: ConnectorContext, *, output_width: int) -> None:
        super().__init__()
        self.module = module
        self._name, self._rule, self._input_width, self._output_width = name, rule, context.input.width, output_width
        reasons = self._misfits(context.input.grid, context.input.prefix) + width_misfit(output_width, context.output_width)
        if reasons:
            raise AssemblyError(f"`{name}` does not fit to {context.input}", reasons)

    @property
    def output_width(self) -> int:
        """The width of the tokens that come out."""
        return self._output_width

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid that the rule tells; raises `AssemblyError` for one that it refuses, or where there is none."""
        reasons = self._misfits(grid, 0)
        if reasons or grid is None:
            raise AssemblyError(f"`{self._name}` cannot take this grid", reasons)
        return self._rule.output(grid)

    def token_count(self, grid: Grid | None, count: int) -> int:
        """The places of the grid that comes out; raises `AssemblyError` for a grid it refuses, or for a prefix."""
        reasons = self._misfits(grid, 0 if grid is None else count - grid[0] * grid[1])
        if reasons or grid is None:
            raise AssemblyError(f"`{self._name}` cannot take these tokens", reasons)
        rows, columns = self._rule.output(grid)
        return rows * columns

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, h*w, D] -> [B, h'*w', d]; raises `AssemblyError` for a grid or prefix it cannot take."""
        check_tokens(self._name, "tokens", features.tokens, self._input_width)
        self.token_count(features.grid, features.tokens.shape[1])
        assert features.grid is not None
        places = features.tokens.transpose(1, 2).unflatten(2, features.grid)  # B D h w
        mapped = self.module(places)  # B d h' w'
        return VisionFeatures(mapped.flatten(2).transpose(1, 2), self._rule.output(features.grid))

    def _misfits(self, grid: Grid | None, prefix: int) -> list[str]:
        reasons = []
        if grid is None:
            reasons.append(
                "it works on neighbours, and these tokens have no grid: put it before the connector that drops the grid"
            )
        else:
            reasons += self._rule.misfits(grid)
        if prefix:
            reasons.append(
                f"it takes 0 prefix tokens and {prefix} come in, which have no neighbours: set `prefix: drop` in the encoder"
            )
        return reasons
