"""A fixed number of learned queries that gather what is in the image tokens: Flamingo's Perceiver resampler.

Flamingo (arXiv:2204.14198, section 3.1 and appendix A.1.1), in OpenFlamingo's form (arXiv:2308.01390); with
`activation: relu` it is IDEFICS's, which may norm queries and keys.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.activation import activation_module
from vlmzoo_connectors.config import ResamplerConfig
from vlmzoo_connectors.latents import Latents
from vlmzoo_registry import ConnectorContext


class _Layer(nn.Module):
    """One layer: the latents attend to the image tokens and to themselves, then a feed-forward; both residual."""

    def __init__(self, width: int, config: ResamplerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner, hidden = config.heads * config.head_width, config.feedforward_multiplier * width
        self.token_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.latent_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(width, inner, bias=False)
        self.value = nn.Linear(width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.query_norm = nn.LayerNorm(config.head_width) if config.query_key_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(config.head_width) if config.query_key_norm else nn.Identity()
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width, eps=config.norm_epsilon),
            nn.Linear(width, hidden, bias=False),
            activation_module(config.activation),
            nn.Linear(hidden, width, bias=False),
        )

    def forward(self, latents: Float[Tensor, "B Q D"], tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q D"]:
        normed = self.latent_norm(latents)  # B Q D
        context = torch.cat([self.token_norm(tokens), normed], dim=1)  # B N+Q D: latents join keys and values
        queries, keys, values = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(normed), self.key(context), self.value(context))
        )  # B heads . head_width
        attended = functional.scaled_dot_product_attention(self.query_norm(queries), self.key_norm(keys), values)
        latents = latents + self.output(attended.transpose(1, 2).flatten(2))
        return latents + self.feedforward(latents)


class Resampler(Latents):
    """Flamingo's layers, with a LayerNorm behind them; see `Latents`."""

    def __init__(self, config: ResamplerConfig, context: ConnectorContext) -> None:
        width = context.input.width
        latents = torch.randn(config.queries, width)
        layers = [_Layer(width, config) for _ in range(config.depth)]
        super().__init__("connectors/resampler", latents, layers, nn.LayerNorm(width, eps=config.norm_epsilon), context)
