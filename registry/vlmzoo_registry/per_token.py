"""The connector that most connectors are: some module applied to each token by itself, so that no token changes its place."""

from torch import nn

from vlmzoo_registry.connector import Connector, ConnectorContext
from vlmzoo_registry.features import Grid
from vlmzoo_registry.inputs import check_tokens
from vlmzoo_registry.vision import VisionFeatures


class PerToken(Connector):
    """`module` maps tokens of width `context.input.width` to tokens of width `context.target_width`.

    To be returned by the factory of a connector; not to be derived from. Grid and prefix pass through.
    """

    def __init__(self, module: nn.Module, context: ConnectorContext) -> None:
        super().__init__()
        self.module = module
        self._input_width, self._output_width = context.input.width, context.target_width

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else that of the language model."""
        return self._output_width

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid that goes in."""
        return grid

    def token_count(self, grid: Grid | None, count: int) -> int:
        """As many as go in."""
        return count

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, N, d]."""
        check_tokens(type(self.module).__name__, "tokens", features.tokens, self._input_width)
        return VisionFeatures(self.module(features.tokens), features.grid, features.prefix)
