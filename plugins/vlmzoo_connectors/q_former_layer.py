"""One layer of a Q-Former: BERT's layer, in which the queries may also attend to the image tokens.

BLIP-2 (arXiv:2301.12597, section 3.1) and InstructBLIP (arXiv:2305.06500, section 2.3), where the instruction runs beside the
queries: they attend to each other, and each has a feed-forward of its own.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_connectors.config import QFormerConfig


class PostNormAttention(nn.Module):
    """Attention in BERT's order: attend, add, norm."""

    def __init__(self, width: int, token_width: int, heads: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(token_width, width)
        self.value = nn.Linear(token_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=epsilon)

    def forward(
        self, hidden: Float[Tensor, "B S D"], tokens: Float[Tensor, "B N C"], seen: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """What the tokens that are `seen` (all, where nothing is said) add to the hidden states, normed."""
        queries, keys, values = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(hidden), self.key(tokens), self.value(tokens))
        )  # B heads . head_width
        mask = None if seen is None else seen[:, None, None, :]  # B 1 1 N
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.norm(hidden + self.output(attended.transpose(1, 2).flatten(2)))


class PostNormFeedforward(nn.Module):
    """Feed-forward in BERT's order: two matrices with GELU between them, add, norm."""

    def __init__(self, width: int, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, hidden: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """[B, S, D] -> [B, S, D]."""
        return self.norm(hidden + self.down(functional.gelu(self.up(hidden))))


class QFormerLayer(nn.Module):
    """Queries (and text) attend to each other; the queries attend to the image tokens (`crosses`); feed-forward for each.

    `reads` says whether text goes on to a next layer: only then has it a feed-forward.
    """

    def __init__(
        self,
        width: int,
        token_width: int,
        *,
        heads: int,
        feedforward_width: int,
        norm_epsilon: float,
        crosses: bool,
        reads: bool,
    ) -> None:
        super().__init__()
        self.attention = PostNormAttention(width, width, heads, norm_epsilon)
        self.cross_attention = PostNormAttention(width, token_width, heads, norm_epsilon) if crosses else None
        self.feedforward = PostNormFeedforward(width, feedforward_width, norm_epsilon)
        self.text_feedforward = PostNormFeedforward(width, feedforward_width, norm_epsilon) if reads else None

    def forward(
        self,
        queries: Float[Tensor, "B Q D"],
        tokens: Float[Tensor, "B N C"],
        text: Float[Tensor, "B T D"] | None = None,
        seen: Bool[Tensor, "B Q+T"] | None = None,
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B T D"] | None]:
        """The queries, and the text where it goes on; `seen` leaves out the padding of the text."""
        count = queries.shape[1]
        hidden = queries if text is None else torch.cat([queries, text], dim=1)
        hidden = self.attention(hidden, hidden, seen)
        queries = hidden[:, :count]
        if self.cross_attention is not None:
            queries = self.cross_attention(queries, tokens)
        text = None if self.text_feedforward is None else self.text_feedforward(hidden[:, count:])
        return self.feedforward(queries), text


def q_former_layers(config: QFormerConfig, token_width: int, *, reads: bool) -> nn.ModuleList:
    """The layers that the options name; with `reads` text runs beside the queries, up to the last layer."""
    return nn.ModuleList(
        QFormerLayer(
            config.width,
            token_width,
            heads=config.heads,
            feedforward_width=config.feedforward_width,
            norm_epsilon=config.norm_epsilon,
            crosses=number % config.cross_attention_every == 0,
            reads=reads and number < config.depth - 1,
        )
        for number in range(config.depth)
    )


def start_as_bert(module: nn.Module) -> None:
    """Weights with a standard deviation of 0.02, biases at 0: how BERT, and so the Q-Former, begins."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
