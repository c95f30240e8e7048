"""Llama-3.2-Vision's gated cross-attention block: RMSNorm, grouped-query attention, a gated feed-forward, two gates at 0.

Llama 3 (arXiv:2407.21783, section 7.2), in the form of transformers' `MllamaCrossAttentionDecoderLayer`; without the norms on
queries and keys it is IDEFICS's (arXiv:2306.16527, appendix A).
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlmzoo_connectors.activation import activation_module
from vlmzoo_connectors.attention import attend_visible
from vlmzoo_connectors.config import Activation
from vlmzoo_registry import DecoderBlock, check_tokens


class LlamaBlock(DecoderBlock):
    """hidden + tanh(gate) * attention, then + tanh(gate) * feed-forward; H heads share G heads of keys and values.

    `masked_rows="zero"` gives positions that see no image back as they came, bit for bit; with "feedforward" they gather
    nothing and the feed-forward runs, as in IDEFICS; with "hf_mllama" they attend to everything and skip the feed-forward,
    which is what transformers' Mllama does. `gate_width` is 1, or the width, for a gate on each
    channel (IDEFICS's `alpha_type: vector`).
    """

    def __init__(
        self,
        *,
        width: int,
        token_width: int,
        heads: int,
        key_value_heads: int,
        head_width: int,
        query_key_norm: bool,
        feedforward_width: int,
        activation: Activation,
        norm_epsilon: float,
        masked_rows: Literal["zero", "feedforward", "hf_mllama"],
        gate_width: int,
    ) -> None:
        super().__init__()
        self.head_width, self.masked_rows = head_width, masked_rows
        self.attention_norm = nn.RMSNorm(width, eps=norm_epsilon)
        self.query = nn.Linear(width, heads * head_width, bias=False)
        self.key = nn.Linear(token_width, key_value_heads * head_width, bias=False)
        self.value = nn.Linear(token_width, key_value_heads * head_width, bias=False)
        self.output = nn.Linear(heads * head_width, width, bias=False)
        self.query_norm = nn.RMSNorm(head_width, eps=norm_epsilon) if query_key_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(head_width, eps=norm_epsilon) if query_key_norm else nn.Identity()
        self.attention_gate = nn.Parameter(torch.zeros(gate_width))
        self.feedforward_norm = nn.RMSNorm(width, eps=norm_epsilon)
        self.gate = nn.Linear(width, feedforward_width, bias=False)
        self.up = nn.Linear(width, feedforward_width, bias=False)
        self.down = nn.Linear(feedforward_width, width, bias=False)
        self.activation = activation_module(activation)
        self.feedforward_gate = nn.Parameter(torch.zeros(gate_width))

    def keys_values(self, tokens: Float[Tensor, "B M D"]) -> tuple[Float[Tensor, "B G M w"], Float[Tensor, "B G M w"]]:
        """Keys (normed) and values of the image tokens, split into heads."""
        check_tokens("connectors/cross-attention", "image tokens", tokens, self.key.in_features)
        keys = self.key(tokens).unflatten(2, (-1, self.head_width)).transpose(1, 2)
        values = self.value(tokens).unflatten(2, (-1, self.head_width)).transpose(1, 2)
        return self.key_norm(keys), values

    def forward(
        self,
        hidden: Float[Tensor, "B S d"],
        keys: Float[Tensor, "B G M w"],
        values: Float[Tensor, "B G M w"],
        visible: Bool[Tensor, "B S M"],
    ) -> Float[Tensor, "B S d"]:
        """The hidden states with what the visible image tokens add."""
        check_tokens("connectors/cross-attention", "hidden states", hidden, self.query.in_features)
        queries = self.query(self.attention_norm(hidden)).unflatten(2, (-1, self.head_width)).transpose(1, 2)  # B H S w
        gathered, sees = attend_visible(self.query_norm(queries), keys, values, visible)  # B S H*w, B S 1
        attended = hidden + self.attention_gate.tanh() * self.output(gathered)  # B S d
        if self.masked_rows == "feedforward":
            attended = torch.where(sees, attended, hidden)
        normed = self.feedforward_norm(attended)
        fed = self.down(self.activation(self.gate(normed)) * self.up(normed))  # B S d
        match self.masked_rows:
            case "zero":
                return torch.where(sees, attended + self.feedforward_gate.tanh() * fed, hidden)
            case "feedforward":
                return attended + self.feedforward_gate.tanh() * fed
            case "hf_mllama":
                return attended + self.feedforward_gate.tanh() * (fed * sees)
