"""The options of connectors that convolve the map of tokens."""

from vlmzoo_connectors.config.common import Positive, Sides
from vlmzoo_registry import ComponentConfig


class CAbstractorConfig(ComponentConfig):
    """Options of `connectors/c-abstractor`; the defaults are Honeybee's.

    `grid` (rows, columns) comes out; `depth` counts the blocks before and again those after the pooling; `mlp_depth` the
    matrices that end it. With `positions` one vector is learned for each place that comes in, so that no other grid is taken.
    """

    grid: Sides = (12, 12)
    depth: Positive = 3
    hidden_width: Positive = 1024
    mlp_depth: Positive = 2
    positions: bool = True


class LdpConfig(ComponentConfig):
    """Options of `connectors/ldp`: none; each side of the grid is halved."""


class LdpV2Config(ComponentConfig):
    """Options of `connectors/ldp-v2`: the `grid` (rows, columns) that comes out."""

    grid: Sides = (12, 12)
