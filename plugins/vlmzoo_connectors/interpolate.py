"""Tokens read off between the places: LLaVA-OneVision's way to fewer tokens for each frame (arXiv:2408.03326, section 3.2)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.config import InterpolateConfig
from vlmzoo_connectors.grid_rule import Divided, Fixed, GridRule
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_registry import ConnectorContext


class Interpolation(nn.Module):
    """A map of another size, which `rule` tells."""

    def __init__(self, rule: GridRule, mode: Literal["bilinear", "nearest"]) -> None:
        super().__init__()
        self.rule, self.mode = rule, mode

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D H W"]:
        """[B, D, h, w] -> [B, D, H, W]."""
        height, width = places.shape[2:]
        return functional.interpolate(places, self.rule.output((height, width)), mode=self.mode)


def interpolate(config: InterpolateConfig, context: ConnectorContext) -> OnGrid:
    """[B, h*w, D] -> [B, h'*w', D]; it has no parameters."""
    rule: GridRule
    if config.grid is not None:
        rule = Fixed(config.grid)
    else:
        assert config.factor is not None
        rule = Divided(config.factor, config.factor, "factor", pad=True)
    module = Interpolation(rule, config.mode)
    return OnGrid("connectors/interpolate", module, rule, context, output_width=context.input.width)
