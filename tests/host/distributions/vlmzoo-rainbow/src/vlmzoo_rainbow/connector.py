"""A gated perceptron on each token: the feed-forward layer "SwiGLU" of arXiv:2002.05202, section 2, equation 6."""

from torch import nn
from torch.nn import functional

from vlmzoo_rainbow.config import RainbowConfig
from vlmzoo_registry import AssemblyError, Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class Rainbow(Connector):
    """`down(silu(gate(x)) * up(x))` for each token x; places and prefix stay as they are.

    Raises `AssemblyError` where neither the width that must come out nor that of the language model is known.
    """

    def __init__(self, config: RainbowConfig, context: ConnectorContext) -> None:
        super().__init__()
        width = context.output_width or context.language_width
        if width < 1:
            raise AssemblyError(
                f"`rainbow/rainbow` needs to know the width that must come out: `output_width` (={context.output_width}), "
                f"`language_width` (={context.language_width})"
            )
        hidden = max(1, round(config.expansion * width))
        self.gate = nn.Linear(context.input.width, hidden, bias=config.bias)
        self.up = nn.Linear(context.input.width, hidden, bias=config.bias)
        self.down = nn.Linear(hidden, width, bias=config.bias)

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else that of the language model."""
        return self.down.out_features

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid that goes in."""
        return grid

    def token_count(self, grid: Grid | None, count: int) -> int:
        """As many as go in."""
        return count

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, N, d]."""
        check_tokens("rainbow/rainbow", "tokens", features.tokens, self.gate.in_features)
        hidden = functional.silu(self.gate(features.tokens)) * self.up(features.tokens)  # [B, N, hidden]
        return VisionFeatures(self.down(hidden), features.grid, features.prefix)
