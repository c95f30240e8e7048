"""Flamingo's gated cross-attention block: LayerNorm, bias-free attention, a plain feed-forward, two gates that start at 0.

Flamingo (arXiv:2204.14198, section 3.2 and appendix A.1.2), in OpenFlamingo's form (arXiv:2308.01390).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlmzoo_connectors.activation import activation_module
from vlmzoo_connectors.attention import attend_visible
from vlmzoo_connectors.config import Activation
from vlmzoo_registry import DecoderBlock, check_tokens


class FlamingoBlock(DecoderBlock):
    """hidden + tanh(gate) * attention, then + tanh(gate) * feed-forward.

    `masked_rows="zero"` gives positions that see no image back as they came, bit for bit; with "feedforward" they gather
    nothing and the feed-forward runs, as in OpenFlamingo; with "hf_mllama" they attend to everything and skip the feed-forward.
    `gate_width` is 1, or the width, for a gate on each channel.
    """

    def __init__(
        self,
        *,
        width: int,
        token_width: int,
        heads: int,
        head_width: int,
        feedforward_width: int,
        activation: Activation,
        norm_epsilon: float,
        masked_rows: Literal["zero", "feedforward", "hf_mllama"],
        gate_width: int,
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads, self.masked_rows = heads, masked_rows
        self.norm = nn.LayerNorm(width, eps=norm_epsilon)
        self.query = nn.Linear(width, inner, bias=False)
        self.key = nn.Linear(token_width, inner, bias=False)
        self.value = nn.Linear(token_width, inner, bias=False)
        self.output = nn.Linear(inner, width, bias=False)
        self.attention_gate = nn.Parameter(torch.zeros(gate_width))
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width, eps=norm_epsilon),
            nn.Linear(width, feedforward_width, bias=False),
            activation_module(activation),
            nn.Linear(feedforward_width, width, bias=False),
        )
        self.feedforward_gate = nn.Parameter(torch.zeros(gate_width))

    def keys_values(self, tokens: Float[Tensor, "B M D"]) -> tuple[Float[Tensor, "B H M w"], Float[Tensor, "B H M w"]]:
        """Keys and values of the image tokens, split into heads."""
        check_tokens("connectors/cross-attention", "image tokens", tokens, self.key.in_features)
        keys, values = self.key(tokens), self.value(tokens)  # B M H*w
        return keys.unflatten(2, (self.heads, -1)).transpose(1, 2), values.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        hidden: Float[Tensor, "B S d"],
        keys: Float[Tensor, "B H M w"],
        values: Float[Tensor, "B H M w"],
        visible: Bool[Tensor, "B S M"],
    ) -> Float[Tensor, "B S d"]:
        """The hidden states with what the visible image tokens add."""
        check_tokens("connectors/cross-attention", "hidden states", hidden, self.query.in_features)
        queries = self.query(self.norm(hidden)).unflatten(2, (self.heads, -1)).transpose(1, 2)  # B H S w
        gathered, sees = attend_visible(queries, keys, values, visible)  # B S H*w, B S 1
        attended = hidden + self.attention_gate.tanh() * self.output(gathered)  # B S d
        if self.masked_rows == "feedforward":
            attended = torch.where(sees, attended, hidden)
        fed = self.feedforward(attended)  # B S d
        match self.masked_rows:
            case "zero":
                return torch.where(sees, attended + self.feedforward_gate.tanh() * fed, hidden)
            case "feedforward":
                return attended + self.feedforward_gate.tanh() * fed
            case "hf_mllama":
                return attended + self.feedforward_gate.tanh() * (fed * sees)
