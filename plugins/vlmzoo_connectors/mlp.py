"""A perceptron on each token: LLaVA-1.5's connector (arXiv:2310.03744, section 3.2) and its variants with norms."""

from itertools import pairwise

from torch import nn

from vlmzoo_connectors.activation import activation_module
from vlmzoo_connectors.config import MlpConfig
from vlmzoo_connectors.widths import projected_width
from vlmzoo_registry import Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class Mlp(Connector):
    """`depth` matrices with an activation between them, and LayerNorms where asked for; places and prefix stay.

    `layers` holds, in order: the input norm, matrices and activations in turn, the output norm.
    """

    def __init__(self, config: MlpConfig, context: ConnectorContext) -> None:
        super().__init__()
        self._input_width = context.input.width
        self._output_width = projected_width("connectors/mlp", context)
        hidden = [config.hidden_width or self._output_width] * (config.depth - 1)
        widths = [context.input.width, *hidden, self._output_width]

        layers: list[nn.Module] = []
        if config.input_norm == "layer":
            layers.append(nn.LayerNorm(context.input.width, eps=config.norm_epsilon))
        for index, (before, after) in enumerate(pairwise(widths)):
            if index > 0:
                layers.append(activation_module(config.activation))
            layers.append(nn.Linear(before, after, bias=config.bias))
        if config.output_norm != "none":
            norm = nn.LayerNorm(self._output_width, eps=config.norm_epsilon)
            if config.output_scale is not None:
                nn.init.constant_(norm.weight, config.output_scale)
            layers.append(norm)
        self.layers = nn.Sequential(*layers)

    @property
    def output_width(self) -> int:
        """The width of the language model, or the one that was asked for."""
        return self._output_width

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid that goes in."""
        return grid

    def token_count(self, grid: Grid | None, count: int) -> int:
        """As many as go in."""
        return count

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, N, d]."""
        check_tokens("connectors/mlp", "tokens", features.tokens, self._input_width)
        return VisionFeatures(self.layers(features.tokens), features.grid, features.prefix)
