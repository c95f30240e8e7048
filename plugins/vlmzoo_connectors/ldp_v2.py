"""A perceptron, a pooling, and a convolution that tells places apart: MobileVLM V2's projector.

MobileVLM V2 (arXiv:2402.03766, section 3.3; its code: Apache-2.0); the convolution is CPVT's (arXiv:2102.10882).
"""

from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_connectors.config import LdpV2Config
from vlmzoo_connectors.grid_rule import Fixed
from vlmzoo_connectors.map_layers import PlacePerceptron
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_registry import ConnectorContext


class PositionConvolution(nn.Module):
    """Each place with what a depthwise 3x3 convolution adds: its zeros at the edge tell places apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        """[B, D, h, w] -> [B, D, h, w]."""
        return self.convolution(places) + places


def ldp_v2(config: LdpV2Config, context: ConnectorContext) -> OnGrid:
    """[B, h*w, D] -> [B, rows*columns, d]."""
    width = context.target_width
    module = nn.Sequential(
        PlacePerceptron(context.input.width, width, 2, nn.GELU), nn.AdaptiveAvgPool2d(config.grid), PositionConvolution(width)
    )
    return OnGrid("connectors/ldp-v2", module, Fixed(config.grid), context, output_width=width)
