"""Convolutions around an adaptive pooling, which keep what is where: Honeybee's C-Abstractor.

Honeybee (arXiv:2312.06742, section 4.2; its code: Apache-2.0), over RegNet's blocks (arXiv:2003.13678) with SiLU and LayerNorm.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.config import CAbstractorConfig
from vlmzoo_connectors.grid_rule import Fixed
from vlmzoo_connectors.map_layers import ChannelGate, PlaceNorm, PlacePerceptron
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_registry import ConnectorContext, Grid


class RegBlock(nn.Module):
    """Residual: 1x1, depthwise 3x3, a gate on the channels, 1x1; a matrix on the way past where the width changes."""

    def __init__(self, width: int, output_width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, output_width, 1, bias=False),
            PlaceNorm(output_width),
            nn.SiLU(),
            nn.Conv2d(output_width, output_width, 3, padding=1, groups=output_width, bias=False),
            PlaceNorm(output_width),
            nn.SiLU(),
            ChannelGate(output_width, max(1, round(width / 4)), nn.SiLU(), nn.Sigmoid()),
            nn.Conv2d(output_width, output_width, 1, bias=False),
            PlaceNorm(output_width),
        )
        past = [nn.Conv2d(width, output_width, 1, bias=False), PlaceNorm(output_width)]
        self.past = nn.Identity() if width == output_width else nn.Sequential(*past)

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B d h w"]:
        """[B, D, h, w] -> [B, d, h, w]."""
        return functional.silu(self.body(places) + self.past(places))


class Abstractor(nn.Module):
    """Learned positions where `places` is given, blocks, pooling, blocks, a perceptron."""

    def __init__(self, width: int, output_width: int, places: Grid | None, config: CAbstractorConfig) -> None:
        super().__init__()
        self.positions = None if places is None else nn.Parameter(torch.empty(width, *places))
        if self.positions is not None:
            nn.init.trunc_normal_(self.positions, std=0.02)
        hidden = config.hidden_width
        self.before = nn.Sequential(*(RegBlock(hidden if number else width, hidden) for number in range(config.depth)))
        self.pool = nn.AdaptiveAvgPool2d(config.grid)
        self.after = nn.Sequential(*(RegBlock(hidden, hidden) for _ in range(config.depth)))
        self.perceptron = PlacePerceptron(hidden, output_width, config.mlp_depth, nn.SiLU)

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B d H W"]:
        """[B, D, h, w] -> [B, d, H, W]."""
        if self.positions is not None:
            places = places + self.positions
        return self.perceptron(self.after(self.pool(self.before(places))))


def c_abstractor(config: CAbstractorConfig, context: ConnectorContext) -> OnGrid:
    """[B, h*w, D] -> [B, rows*columns, d]; with `positions` it takes the grid it was built for only."""
    learned = context.input.grid if config.positions else None
    module = Abstractor(context.input.width, context.target_width, learned, config)
    rule = Fixed(config.grid, only=learned)
    return OnGrid("connectors/c-abstractor", module, rule, context, output_width=context.target_width)
