"""The mean of neighbouring tokens (Gemma-3, arXiv:2503.19786, section 2.1)."""

from torch import nn

from vlmzoo_connectors.config import AveragePoolConfig
from vlmzoo_connectors.grid_rule import Divided
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_registry import ConnectorContext


def average_pool(config: AveragePoolConfig, context: ConnectorContext) -> OnGrid:
    """[B, h*w, D] -> [B, (h/k)*(w/k), D]; it has no parameters."""
    rule = Divided(config.kernel, config.kernel, "kernel", pad=False)
    return OnGrid("connectors/average-pool", nn.AvgPool2d(config.kernel), rule, context, output_width=context.input.width)
