"""A fixed number of learned latents that gather what is in the image tokens: Idefics2's form of the Perceiver resampler.

Idefics2 (arXiv:2405.02246, section 4.1; its code: Apache-2.0). Other than in `resampler`, Flamingo's form: RMSNorm, groups of
heads that share keys and values, gated feed-forward. Idefics2 maps the tokens to the language model's width first, which is
`connectors/mlp` with `gated: true`.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.config import PerceiverConfig
from vlmzoo_connectors.gated import GatedPerceptron
from vlmzoo_connectors.latents import Latents
from vlmzoo_registry import ConnectorContext


class _Layer(nn.Module):
    """One layer: the latents attend to the image tokens and to themselves, then a feed-forward; both residual."""

    def __init__(self, width: int, config: PerceiverConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.latent_norm = nn.RMSNorm(width, eps=config.norm_epsilon)
        self.token_norm = nn.RMSNorm(width, eps=config.norm_epsilon)
        self.query = nn.Linear(width, config.heads * config.head_width, bias=False)
        self.key = nn.Linear(width, config.key_value_heads * config.head_width, bias=False)
        self.value = nn.Linear(width, config.key_value_heads * config.head_width, bias=False)
        self.output = nn.Linear(config.heads * config.head_width, width, bias=False)
        self.feedforward_norm = nn.RMSNorm(width, eps=config.norm_epsilon)
        self.feedforward = GatedPerceptron(
            width, config.feedforward_multiplier * width, width, activation=config.activation, bias=False
        )

    def forward(self, latents: Float[Tensor, "B Q D"], tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B Q D"]:
        normed = self.latent_norm(latents)  # B Q D
        context = torch.cat([self.token_norm(tokens), normed], dim=1)  # B N+Q D: latents join keys and values
        queries, keys, values = (
            part.unflatten(2, (-1, self.head_width)).transpose(1, 2)
            for part in (self.query(normed), self.key(context), self.value(context))
        )  # B heads (or key_value_heads) . head_width
        attended = functional.scaled_dot_product_attention(queries, keys, values, enable_gqa=queries.shape[1] != keys.shape[1])
        latents = latents + self.output(attended.transpose(1, 2).flatten(2))
        return latents + self.feedforward(self.feedforward_norm(latents))


class Perceiver(Latents):
    """Idefics2's layers, with an RMSNorm behind them; see `Latents`.

    Latents start at random: Idefics2's code starts them all at 1, from where equal latents would stay equal for ever.
    """

    def __init__(self, config: PerceiverConfig, context: ConnectorContext) -> None:
        width = context.input.width
        latents = torch.randn(config.queries, width)
        layers = [_Layer(width, config) for _ in range(config.depth)]
        super().__init__("connectors/perceiver", latents, layers, nn.RMSNorm(width, eps=config.norm_epsilon), context)
