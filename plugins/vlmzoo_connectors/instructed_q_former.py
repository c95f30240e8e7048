"""A Q-Former that reads the instruction beside its queries, so that they gather what is asked for.

InstructBLIP (arXiv:2305.06500, section 2.3; its code, LAVIS: BSD-3-Clause).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vlmzoo_connectors.config import InstructedQFormerConfig
from vlmzoo_connectors.q_former_layer import q_former_layers, start_as_bert
from vlmzoo_registry import (
    AssemblyError,
    ConnectorContext,
    DataError,
    Grid,
    InstructedConnector,
    VisionFeatures,
    check_tokens,
)
from vlmzoo_registry.byte_tokenizer import byte_tokenizer


class InstructedQFormer(InstructedConnector):
    """[B, N, D] and [B, T] -> [B, queries, `width`], then a matrix to the output width.

    As `QFormer`; besides, the queries attend to the words of the instruction in every layer, and these to the queries. Only the
    queries come out, so the last layer has no feed-forward for the words.
    """

    def __init__(self, config: InstructedQFormerConfig, context: ConnectorContext) -> None:
        super().__init__()
        self._tokenizer, self._input_width, self._output_width = config.tokenizer, context.input.width, context.target_width
        self.queries = nn.Parameter(torch.empty(config.queries, config.width).normal_(std=0.02))
        self.words = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.layers = q_former_layers(config, context.input.width, reads=True)
        self.projection = nn.Linear(config.width, self._output_width)
        start_as_bert(self)

    @property
    def output_width(self) -> int:
        """The width that was asked for, or else that of the language model."""
        return self._output_width

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that was named, or one token for each byte; raises `AssemblyError` where words have no embedding."""
        named = self._tokenizer
        tokenizer = byte_tokenizer() if named is None else AutoTokenizer.from_pretrained(named, trust_remote_code=False)
        if len(tokenizer) > self.words.num_embeddings:
            raise AssemblyError(
                f"`connectors/instructed-q-former`: the tokenizer has {len(tokenizer)} words, and `vocabulary` "
                f"(={self.words.num_embeddings}) has an embedding for fewer: set `vocabulary: {len(tokenizer)}`"
            )
        return tokenizer

    @property
    def longest_instruction(self) -> int:
        """As many as there are `positions`."""
        return self.positions.num_embeddings

    def output_grid(self, grid: Grid | None) -> Grid | None:
        """None: the queries have no places."""
        return None

    def token_count(self, grid: Grid | None, count: int) -> int:
        """The number of queries, whatever goes in."""
        return self.queries.shape[0]

    def forward(  # type: ignore[override]
        self, features: VisionFeatures, instruction_ids: Int[Tensor, "B T"], instruction_mask: Int[Tensor, "B T"]
    ) -> VisionFeatures:
        """[B, N, D] -> [B, queries, d]; raises `DataError` for an instruction that is longer than `positions`."""
        check_tokens("connectors/instructed-q-former", "tokens", features.tokens, self._input_width)
        length, longest = instruction_ids.shape[1], self.longest_instruction
        if length > longest:
            raise DataError(
                f"an instruction of the batch has {length} tokens, and `connectors/instructed-q-former` reads {longest} "
                "(`positions`): shorten it, or leave rows with longer ones out"
            )
        with torch.autocast(features.tokens.device.type, enabled=False):
            tokens = features.tokens.to(self.queries.dtype)  # B N C
            gathered = self._gather(tokens, instruction_ids, instruction_mask.bool())  # B Q width
        return VisionFeatures(self.projection(gathered.to(self.projection.weight.dtype)), grid=None)

    def _gather(
        self, tokens: Float[Tensor, "B N C"], ids: Int[Tensor, "B T"], readable: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B Q D"]:
        queries = self.norm(self.queries).expand(tokens.shape[0], -1, -1)  # B Q D
        text = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])  # B T D
        seen = functional.pad(readable, (queries.shape[1], 0), value=True)  # B Q+T
        for layer in self.layers:
            queries, text = layer(queries, tokens, text, seen)
        return queries
