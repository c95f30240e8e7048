"""A norm on each token, as a link of a chain: LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.config import NormConfig
from vlmzoo_connectors.widths import keeping_width
from vlmzoo_registry import ConnectorContext, PerToken


class OffsetRMSNorm(nn.Module):
    """Gemma's RMSNorm: x / rms(x) * (1 + weight), computed in float32 at least, so that a weight near 0 keeps its digits."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """[B, N, D] -> [B, N, D]."""
        exact = torch.promote_types(tokens.dtype, torch.float32)
        weight = 1 + self.weight.to(exact)
        return functional.rms_norm(tokens.to(exact), weight.shape, weight, self.epsilon).to(tokens.dtype)


def norm(config: NormConfig, context: ConnectorContext) -> PerToken:
    """Norms each token; places, prefix and width stay. Raises `AssemblyError` where another width is needed."""
    context = keeping_width("connectors/norm", context)
    width = context.input.width
    match config.kind:
        case "layer":
            return PerToken(nn.LayerNorm(width, eps=config.norm_epsilon), context)
        case "rms":
            return PerToken(nn.RMSNorm(width, eps=config.norm_epsilon), context)
        case "rms_offset":
            return PerToken(OffsetRMSNorm(width, config.norm_epsilon), context)
