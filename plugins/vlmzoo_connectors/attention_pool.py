"""Attention within windows of neighbours: their mean asks, they answer.

Molmo (arXiv:2409.17146, section 2; its code: Apache-2.0).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.config import AttentionPoolConfig
from vlmzoo_connectors.grid_rule import Divided
from vlmzoo_connectors.on_grid import OnGrid
from vlmzoo_connectors.widths import with_width
from vlmzoo_registry import ConnectorContext


class WindowAttention(nn.Module):
    """Windows of factor x factor places become one place; places beyond the edge are not seen."""

    def __init__(self, width: int, output_width: int, config: AttentionPoolConfig) -> None:
        super().__init__()
        self.factor, self.head_width = config.factor, config.head_width
        inner, shared = config.heads * config.head_width, (config.key_value_heads or config.heads) * config.head_width
        self.query = nn.Linear(width, inner, bias=config.bias)
        self.key = nn.Linear(width, shared, bias=config.bias)
        self.value = nn.Linear(width, shared, bias=config.bias)
        self.output = nn.Linear(inner, output_width, bias=config.bias)

    def forward(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B d H W"]:
        """[B, D, h, w] -> [B, d, h / factor, w / factor]."""
        there = torch.ones_like(places[:1, :1])  # 1 1 h w
        windows, seen = self._windows(places), self._windows(there)  # B H*W f*f D, 1 H*W f*f 1
        mean = windows.sum(2, keepdim=True) / seen.sum(2, keepdim=True)  # B H*W 1 D
        queries, keys, values = (
            part.unflatten(3, (-1, self.head_width)).transpose(2, 3)
            for part in (self.query(mean), self.key(windows), self.value(windows))
        )  # B H*W heads . head_width
        attended = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=seen.bool().transpose(2, 3)[:, :, None],  # 1 H*W 1 1 f*f
            enable_gqa=queries.shape[2] != keys.shape[2],
        )
        pooled = self.output(attended.transpose(2, 3).flatten(3)).squeeze(2)  # B H*W d
        return pooled.transpose(1, 2).unflatten(2, (-(-places.shape[2] // self.factor), -1))

    def _windows(self, places: Float[Tensor, "B D h w"]) -> Float[Tensor, "B K W D"]:
        height, width = places.shape[2:]
        places = functional.pad(places, (0, -width % self.factor, 0, -height % self.factor))
        blocks = places.unflatten(3, (-1, self.factor)).unflatten(2, (-1, self.factor))  # B D H dy W dx
        return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def attention_pool(config: AttentionPoolConfig, context: ConnectorContext) -> OnGrid:
    """[B, h*w, D] -> [B, (h/f)*(w/f), d]."""
    context = with_width("connectors/attention-pool", context, config.width)
    width = context.output_width or config.heads * config.head_width
    module = WindowAttention(context.input.width, width, config)
    rule = Divided(config.factor, config.factor, "factor", config.pad)
    return OnGrid("connectors/attention-pool", module, rule, context, output_width=width)
