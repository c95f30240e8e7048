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
from vlmzoo_registry import Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


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


class Resampler(Connector):
    """[B, N, D] -> [B, queries, D], then a matrix to the output width where one is asked for and differs.

    Any number of tokens goes in, prefix tokens included; what comes out has no places.
    """

    def __init__(self, config: ResamplerConfig, context: ConnectorContext) -> None:
        super().__init__()
        width = context.input.width
        self._output_width = context.output_width or width
        self.latents = nn.Parameter(torch.randn(config.queries, width))
        self.layers = nn.ModuleList(_Layer(width, config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.projection = nn.Identity() if self._output_width == width else nn.Linear(width, self._output_width, bias=False)

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else the one that comes in."""
        return self._output_width

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """None: the latents have no places."""
        return None

    def token_count(self, grid: Grid | None, count: int) -> int:
        """The number of queries, whatever goes in."""
        return self.latents.shape[0]

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, queries, d]."""
        check_tokens("connectors/resampler", "tokens", features.tokens, self.latents.shape[1])
        latents = self.latents.expand(features.tokens.shape[0], -1, -1)  # B Q D
        for layer in self.layers:
            latents = layer(latents, features.tokens)
        return VisionFeatures(self.projection(self.norm(latents)), grid=None)
