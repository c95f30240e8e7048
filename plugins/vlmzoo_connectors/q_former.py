"""The Q-Former: learned queries in a small BERT that attend to the image tokens in every other layer.

BLIP-2 (arXiv:2301.12597, section 3.1; its code, LAVIS: BSD-3-Clause).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_connectors.config import QFormerConfig
from vlmzoo_connectors.q_former_layer import q_former_layers, start_as_bert
from vlmzoo_registry import Connector, ConnectorContext, Grid, VisionFeatures, check_tokens


class QFormer(Connector):
    """[B, N, D] -> [B, queries, `width`], then a matrix to the output width.

    Any number of tokens goes in, prefix tokens included (BLIP-2 keeps the class token: `prefix: keep` in the encoder); what
    comes out has no places. It computes in the precision of its parameters, under autocast too: kept in float32, it is
    exact, as BLIP-2's is. Where LAVIS trains with dropout 0.1, this has none.
    """

    def __init__(self, config: QFormerConfig, context: ConnectorContext) -> None:
        super().__init__()
        self._input_width, self._output_width = context.input.width, context.target_width
        self.queries = nn.Parameter(torch.empty(config.queries, config.width).normal_(std=0.02))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.layers = q_former_layers(config, context.input.width, reads=False)
        self.projection = nn.Linear(config.width, self._output_width)
        start_as_bert(self)

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else that of the language model."""
        return self._output_width

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """None: the queries have no places."""
        return None

    def token_count(self, grid: Grid | None, count: int) -> int:
        """The number of queries, whatever goes in."""
        return self.queries.shape[0]

    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """[B, N, D] -> [B, queries, d]."""
        check_tokens("connectors/q-former", "tokens", features.tokens, self._input_width)
        with torch.autocast(features.tokens.device.type, enabled=False):
            gathered = self._gather(features.tokens.to(self.queries.dtype))  # B Q width
        return VisionFeatures(self.projection(gathered.to(self.projection.weight.dtype)), grid=None)

    def _gather(self, tokens: Float[Tensor, "B N C"]) -> Float[Tensor, "B Q D"]:
        queries = self.norm(self.queries).expand(tokens.shape[0], -1, -1)  # B Q D
        for layer in self.layers:
            queries, _ = layer(queries, tokens)
        return queries
