"""A pre-norm decoder over bytes, small enough to read and to run in a test, with all that generation asks of a real one.

Rotary positions (arXiv:2104.09864) or learned ones; the head is tied to the embedding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import Cache, PreTrainedConfig, PreTrainedTokenizerBase

from vlmzoo_registry import DataError, LanguageModel, check_tokens
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer
from vlmzoo_toy.config import ToyLanguageConfig


def rotate(vectors: Float[Tensor, "B H S w"], positions: Int[Tensor, "B S"]) -> Float[Tensor, "B H S w"]:
    """Turn the pair (i, i + w/2) of each vector by its position times 10000^(-2i/w)."""
    half = vectors.shape[3] // 2
    frequencies = 10000.0 ** -(torch.arange(half, device=vectors.device, dtype=torch.float32) / half)  # w/2
    angles = (positions[:, None, :, None] * frequencies).to(vectors.dtype)  # B 1 S w/2
    first, second = vectors[..., :half], vectors[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=3)


class _Layer(nn.Module):
    """Pre-norm causal attention, then a feed-forward; both residual."""

    def __init__(self, config: ToyLanguageConfig, index: int) -> None:
        super().__init__()
        self.index, self.heads, self.rotary = index, config.heads, config.learned_positions is None
        self.attention_norm, self.feedforward_norm = nn.RMSNorm(config.width), nn.RMSNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)
        self.feedforward = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.SiLU(), nn.Linear(2 * config.width, config.width)
        )

    def forward(
        self,
        hidden: Float[Tensor, "B S d"],
        positions: Int[Tensor, "B S"],
        visible: Bool[Tensor, "B 1 S T"],
        cache: Cache | None,
    ) -> Float[Tensor, "B S d"]:
        projected = self.query_key_value(self.attention_norm(hidden)).unflatten(2, (3, self.heads, -1))  # B S 3 H w
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)  # B H S w
        if self.rotary:
            queries, keys = rotate(queries, positions), rotate(keys, positions)
        if cache is not None:
            keys, values = cache.update(keys, values, self.index)  # B H T w
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible)  # B H S w
        hidden = hidden + self.output(attended.transpose(1, 2).flatten(2))
        return hidden + self.feedforward(self.feedforward_norm(hidden))


class ToyLanguage(LanguageModel):
    """A causal language model over bytes, at random."""

    def __init__(self, config: ToyLanguageConfig) -> None:
        super().__init__()
        self.config = config
        self._tokenizer = byte_tokenizer(config.control_tokens)
        self._text_config = PreTrainedConfig(
            num_hidden_layers=config.depth,
            hidden_size=config.width,
            num_attention_heads=config.heads,
            vocab_size=BYTE_TOKENS,
            max_position_embeddings=config.learned_positions,
            bos_token_id=self._tokenizer.bos_token_id,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        self.tokens = nn.Embedding(BYTE_TOKENS, config.width)
        self.positions = None if config.learned_positions is None else nn.Embedding(config.learned_positions, config.width)
        self.layers = nn.ModuleList(_Layer(config, index) for index in range(config.depth))
        self.norm = nn.RMSNorm(config.width)
        self.logits = nn.Linear(config.width, BYTE_TOKENS, bias=False)
        nn.init.normal_(self.tokens.weight, std=config.width**-0.5)
        self.logits.weight = self.tokens.weight

    @classmethod
    def resolve(cls, config: ToyLanguageConfig) -> ToyLanguageConfig:
        """The config itself: it names no pretrained weights."""
        return config

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """One token per byte."""
        return self._tokenizer

    @property
    def text_config(self) -> PreTrainedConfig:
        """What generation reads."""
        return self._text_config

    @property
    def width(self) -> int:
        """The size of a hidden state."""
        return self.config.width

    @property
    def embedding(self) -> nn.Module:
        """Ids to vectors."""
        return self.tokens

    @property
    def head(self) -> nn.Module:
        """Hidden states to logits; tied to the embedding."""
        return self.logits

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The layers, in order."""
        return self.layers

    def resize(self, rows: int) -> None:
        """Add rows at random until there are `rows`; the head stays tied."""
        old = self.tokens.weight
        if rows <= len(old):
            return
        added = torch.empty(rows - len(old), self.width, device=old.device, dtype=old.dtype)
        nn.init.normal_(added, std=self.width**-0.5)
        weight = nn.Parameter(torch.cat([old.detach(), added]), requires_grad=old.requires_grad)
        self.tokens.weight = self.logits.weight = weight
        self.tokens.num_embeddings = self.logits.out_features = self._text_config.vocab_size = rows

    def decode(
        self,
        embeddings: Float[Tensor, "B S d"],
        *,
        attention_mask: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B S d"]:
        """Causal hidden states after the last norm.

        Positions default to the number of real tokens before, so that padding on the left shifts nothing. Raises `DataError`
        for a text longer than the learned positions, and `ValueError` for a mask that does not cover cache and text.
        """
        check_tokens("toy/language", "embeddings", embeddings, self.width)
        batch, length, _ = embeddings.shape
        past = 0 if cache is None else int(cache.get_seq_length())
        total = past + length
        if attention_mask is None:
            attention_mask = torch.ones(batch, total, dtype=torch.long, device=embeddings.device)
        if attention_mask.shape[1] != total:
            raise ValueError(f"`attention_mask` covers {attention_mask.shape[1]} tokens; cache and text have {past} + {length}")
        if position_ids is None:
            position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]

        hidden = embeddings
        if self.positions is not None:
            if total > self.positions.num_embeddings:
                raise DataError(
                    f"the text has {total} tokens, and `learned_positions` (={self.positions.num_embeddings}) allows no more "
                    "than that: shorten the text, or leave `learned_positions` out for rotary positions"
                )
            hidden = hidden + self.positions(position_ids)
        places = torch.arange(total, device=embeddings.device)
        causal = places <= places[past:, None]  # S T
        itself = places == places[past:, None]  # S T: keeps the softmax of a padded row from being empty
        visible = (causal & attention_mask.bool()[:, None]) | itself  # B S T
        for layer in self.layers:
            hidden = layer(hidden, position_ids, visible[:, None], cache)
        return self.norm(hidden)
