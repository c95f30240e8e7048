"""One matrix from the vision width to the language width: the shortest connector there can be."""

from torch import nn

from vlmzoo_registry import Connector, ConnectorContext, Grid, NoOptions, VisionFeatures, check_tokens


class ToyConnector(Connector):
    """Projects each token; places and prefix stay as they are."""

    def __init__(self, config: NoOptions, context: ConnectorContext) -> None:
        super().__init__()
        self.projection = nn.Linear(context.input.width, context.output_width or context.language_width)

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else that of the language model."""
        return self.projection.out_features

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid that goes in."""
        return grid

    def token_count(self, grid: Grid | None, count: int) -> int:
        """As many as go in."""
        return count

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, N, d]."""
        check_tokens("toy/connector", "tokens", features.tokens, self.projection.in_features)
        return VisionFeatures(self.projection(features.tokens), features.grid, features.prefix)
