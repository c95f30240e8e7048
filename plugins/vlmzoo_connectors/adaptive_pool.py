"""Means that give a grid of a fixed size, whatever comes in (PerceptionLM, arXiv:2504.13180)."""

from torch import nn

from vlmzoo_connectors.config import AdaptivePoolConfig
from vlmzoo_connectors.grid_rule import Fixed
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_registry import ConnectorContext


def adaptive_pool(config: AdaptivePoolConfig, context: ConnectorContext) -> OnGrid:
    """[B, h*w, D] -> [B, rows*columns, D]; parts overlap by a place where a side does not divide. It has no parameters."""
    module = nn.AdaptiveAvgPool2d(config.grid)
    return OnGrid("connectors/adaptive-pool", module, Fixed(config.grid), context, output_width=context.input.width)
