"""A bidirectional language model of transformers (BERT) behind the contract: it sees in both directions what it is told to.

The families that are trained so have a decoder of the same weights; as one, with the whole row for its prefix, it is the
encoder, and with less of it a prefix language model.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from jaxtyping import Bool, Float, Int
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedTokenizerBase

from vlmzoo_registry import LanguageModel
from vlmzoo_registry.tasks import Reading
from vlmzoo_transformers.causal_lm import TransformersCausalLM
from vlmzoo_transformers.config import CausalLMConfig, MaskedLMConfig
from vlmzoo_transformers.pretrained import architecture, resolve_text, torch_dtype
from vlmzoo_transformers.sentence_head import SentenceHead, load_sentence_head


class TransformersMaskedLM(LanguageModel):
    """The decoder of a `*ForMaskedLM`'s weights, read through a prefix, with a head for sentences; see `LanguageModel`."""

    def __init__(self, config: MaskedLMConfig) -> None:
        super().__init__()
        self._config = config
        described = architecture(config)
        described.is_decoder = True
        common = config.model_dump(exclude={"sentence_head"})
        self.decoder = TransformersCausalLM(CausalLMConfig(prefix="required", **common), described)
        self._sentence_head = SentenceHead(self.width).to(torch_dtype(config.dtype)) if config.sentence_head else None
        if self._sentence_head is not None and config.model is not None:
            load_sentence_head(self._sentence_head, config.model, described)

    @classmethod
    def resolve(cls, config: MaskedLMConfig) -> MaskedLMConfig:
        """The same config with the architecture written out; reads `config.json`, offline."""
        return resolve_text(config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The decoder's; its [CLS] begins a row and its [SEP] ends one. That of bytes gets both, and a mask token."""
        tokenizer = self.decoder.tokenizer
        if self._config.tokenizer is None and self._config.model is None:
            tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"})
            ends = [("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)]
            tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
            tokenizer.bos_token, tokenizer.eos_token = "[CLS]", "[SEP]"
        if tokenizer.bos_token is None:
            tokenizer.bos_token = tokenizer.cls_token
        if tokenizer.eos_token is None:
            tokenizer.eos_token = tokenizer.sep_token
        return tokenizer

    @property
    def text_config(self) -> PreTrainedConfig:
        """The decoder's."""
        return self.decoder.text_config

    @property
    def width(self) -> int:
        """The size of an embedding that can be inserted."""
        return self.decoder.width

    @property
    def embedding(self) -> nn.Module:
        """The embedding of words; positions and segments are added in `decode`."""
        return self.decoder.embedding

    @property
    def head(self) -> nn.Module:
        """The head of masked language modelling."""
        return self.decoder.head

    @property
    def sentence_head(self) -> nn.Module:
        """That of next-sentence prediction. Raises `AssemblyError` where it was left out."""
        return super().sentence_head if self._sentence_head is None else self._sentence_head

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The layers, in order."""
        return self.decoder.decoder_layers

    @property
    def idle_parameters(self) -> frozenset[str]:
        """The sentence head, which only labelled rows reach."""
        idle = {name for name, _ in self.named_parameters() if name.startswith("_sentence_head.")}
        return frozenset(idle | {f"decoder.{name}" for name in self.decoder.idle_parameters})

    @property
    def prefix(self) -> Literal["required"]:
        """What it sees in both directions must always be said."""
        return "required"

    @property
    def reads(self) -> frozenset[Reading]:
        """What the decoder reads, and sentence labels where there is a head for them."""
        return self.decoder.reads | (frozenset() if self._sentence_head is None else frozenset({"sentence_labels"}))

    def resize(self, rows: int) -> None:
        """Add embedding rows and head rows; the head stays tied."""
        self.decoder.resize(rows)

    def decode(
        self,
        embeddings: Float[Tensor, "B S d"],
        *,
        attention_mask: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        cache: Cache | None = None,
        prefix_mask: Bool[Tensor, "B S"] | None = None,
        segment_ids: Int[Tensor, "B S"] | None = None,
        span_positions: Int[Tensor, "B S"] | None = None,
        row_lengths: Int[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "B S d"]:
        """Hidden states before the head: those of the encoder where the prefix is the whole row."""
        return self.decoder.decode(
            embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            prefix_mask=prefix_mask,
            segment_ids=segment_ids,
            span_positions=span_positions,
            row_lengths=row_lengths,
        )
