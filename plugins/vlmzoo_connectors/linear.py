"""One matrix from the vision width to the language width: the first LLaVA's connector (arXiv:2304.08485, section 4.1)."""

from torch import nn

from vlmzoo_connectors.config import LinearConfig
from vlmzoo_connectors.widths import projected_width
from vlmzoo_registry import Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class Linear(Connector):
    """Projects each token; places and prefix stay as they are."""

    def __init__(self, config: LinearConfig, context: ConnectorContext) -> None:
        super().__init__()
        self.projection = nn.Linear(context.input.width, projected_width("connectors/linear", context), bias=config.bias)

    @property
    def output_width(self) -> int:
        """The width of the language model, or the one that was asked for."""
        return self.projection.out_features

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid that goes in."""
        return grid

    def token_count(self, grid: Grid | None, count: int) -> int:
        """As many as go in."""
        return count

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, N, d]."""
        check_tokens("connectors/linear", "tokens", features.tokens, self.projection.in_features)
        return VisionFeatures(self.projection(features.tokens), features.grid, features.prefix)
