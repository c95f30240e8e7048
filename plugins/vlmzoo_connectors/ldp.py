"""A perceptron, then two MobileNetV3 blocks of which the second halves the grid: MobileVLM's downsampling projector.

MobileVLM (arXiv:2312.16886, section 3.4; its code: Apache-2.0); MobileNetV3 (arXiv:1905.02244, section 5).
"""

from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_connectors.config import LdpConfig
from vlmzoo_connectors.grid_rule import Divided
from vlmzoo_connectors.map_layers import ChannelGate, PlaceNorm, PlacePerceptron
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_registry import ConnectorContext


class MobileBlock(nn.Module):
    """Depthwise 3x3, a gate on the channels, 1x1; residual where the grid stays (`stride` 1)."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=width, bias=False),
            PlaceNorm(width),
            nn.Hardswish(),
            ChannelGate(width, _squeezed(width), nn.ReLU(), nn.Hardsigmoid()),
            nn.Conv2d(width, width, 1, bias=False),
            PlaceNorm(width),
        )

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D H W"]:
        """[B, D, h, w] -> [B, D, h / stride, w / stride], rounded up."""
        return self.body(places) + places if self.residual else self.body(places)


def ldp(config: LdpConfig, context: ConnectorContext) -> OnGrid:
    """[B, h*w, D] -> [B, (h/2)*(w/2), d], sides rounded up."""
    width = context.target_width
    module = nn.Sequential(
        PlacePerceptron(context.input.width, width, 2, nn.GELU), MobileBlock(width, stride=1), MobileBlock(width, stride=2)
    )
    return OnGrid("connectors/ldp", module, Divided(2, 2, "stride", pad=True), context, output_width=width)


def _squeezed(width: int) -> int:
    """A quarter of the channels, rounded to a multiple of 8 that is not more than a tenth below (MobileNetV2's rule)."""
    quarter = width // 4
    rounded = max(8, (quarter + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * quarter else rounded
