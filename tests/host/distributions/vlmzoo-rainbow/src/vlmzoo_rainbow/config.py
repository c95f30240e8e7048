"""The options of the connector; importable without torch."""

from pydantic import Field

from vlmzoo_registry import ComponentConfig


class RainbowConfig(ComponentConfig):
    """Options of `rainbow/rainbow`."""

    expansion: float = Field(default=2.0, gt=0, description="The hidden width, as a multiple of the output width.")
    bias: bool = Field(default=False, description="Whether the three matrices have a bias.")
