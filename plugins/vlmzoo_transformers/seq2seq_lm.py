"""An encoder-decoder model of transformers (T5, FLAN-T5, BART) behind the contract of a language model.

Its encoder reads the prefix of each row in both directions, images among it; its decoder says the rest, one token after the
other (BLIP-2 and InstructBLIP with FLAN-T5: arXiv:2301.12597, 2305.06500).
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, Cache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlmzoo_registry import AssemblyError, ConfigError, DataError, LanguageModel, check_tokens
from vlmzoo_registry.compat.transformers import cache_argument
from vlmzoo_transformers.config import Seq2SeqLMConfig
from vlmzoo_transformers.logit_head import HeadPlan, find_head, plain_head
from vlmzoo_transformers.prefix_cache import PrefixMemory, empty_decoder_cache, first_rows, put, take
from vlmzoo_transformers.pretrained import architecture, resolve_text, torch_dtype
from vlmzoo_transformers.resizing import resize_embeddings
from vlmzoo_transformers.text_tokenizer import load_tokenizer
from vlmzoo_transformers.trace import find_layers, find_list, on_meta, probe, record_calls


class TransformersSeq2SeqLM(LanguageModel):
    """A `*ForConditionalGeneration` of text; see `LanguageModel`, and its `prefix`.

    The hidden state at the last position of a prefix is the decoder's at its start token, so its logits are those of the first
    answer token; that at an answer token is the decoder's at that token. Inside the prefix they are 0: nothing is said there.
    """

    def __init__(self, config: Seq2SeqLMConfig) -> None:
        super().__init__()
        self._config = config
        resolved = architecture(config)
        options: dict[str, Any] = {"dtype": torch_dtype(config.dtype)}
        if config.attention is not None:
            options["attn_implementation"] = config.attention
        try:
            if config.model is None:
                self.model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(resolved, **options)
            else:
                self.model = AutoModelForSeq2SeqLM.from_pretrained(config.model, config=resolved, **options)
        except ValueError as error:
            raise ConfigError(f"transformers builds no encoder-decoder model of `{resolved.model_type}`: {error}") from error
        if self.model.config.decoder_start_token_id is None:
            raise ConfigError(f"`{resolved.model_type}` needs `decoder_start_token_id`, the token that its decoder begins with")
        self.model.eval()
        self._head = plain_head(self.model) if on_meta(self.model) else self._find_head()

    def _find_head(self) -> HeadPlan:
        embeddings = probe(self.model)
        with torch.no_grad():
            encoded = self._encoder(inputs_embeds=embeddings).last_hidden_state
            hidden = self._decoder(inputs_embeds=embeddings, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
        return find_head(
            self.model,
            self._decoder,
            hidden,
            lambda: self.model(inputs_embeds=embeddings, decoder_inputs_embeds=embeddings, use_cache=False).logits,
        )

    @classmethod
    def resolve(cls, config: Seq2SeqLMConfig) -> Seq2SeqLMConfig:
        """The same config with the architecture written out; reads `config.json`, offline."""
        return resolve_text(config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own, the one named in the config, or one token per byte for a random architecture."""
        return load_tokenizer(self._config, self.embedding.weight.shape[0])

    @property
    def text_config(self) -> PreTrainedConfig:
        """The decoder's: its depth is the one that the cache goes by."""
        config = self._decoder.config.get_text_config(decoder=True)
        config.vocab_size = self.model.config.vocab_size  # some decoders have a copy of the config that no resize reaches
        return config

    @property
    def width(self) -> int:
        """The size of an embedding that can be inserted."""
        return self.embedding.weight.shape[1]

    @property
    def embedding(self) -> nn.Module:
        """The input embedding, which encoder and decoder share."""
        return self.model.get_input_embeddings()

    @property
    def head(self) -> nn.Module:
        """The output layer, with the scale that older T5 models apply before it."""
        return self._head.head(self.model)

    @property
    def prefix(self) -> Literal["none", "optional", "required"]:
        """The encoder has to have something to read."""
        return "required"

    @property
    def _encoder(self) -> nn.Module:
        return self.model.get_encoder()

    @property
    def _decoder(self) -> nn.Module:
        return self.model.get_decoder()

    @cached_property
    def _layers_path(self) -> str | None:
        decoder = self._decoder
        embeddings = torch.zeros(1, 3, self.width, device=self.model.device, dtype=self.model.dtype)

        def forward() -> Any:
            return decoder(inputs_embeds=embeddings, encoder_hidden_states=embeddings, use_cache=False)

        try:
            with torch.no_grad():
                calls = record_calls(decoder, forward)
        except (RuntimeError, ValueError):
            if not on_meta(self.model):
                raise
            return find_list(decoder, self.text_config.num_hidden_layers)
        return find_layers(decoder, [call for call in calls if call.input and len(call.input) == 3], self.width)

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The decoder's layers. They see the start token and the answer, not the text that the encoder reads."""
        if self._layers_path is None:
            raise AssemblyError(
                f"`{self.model.config.model_type}`: its decoder has no single list of layers that one forward calls once each, "
                "in order, from hidden states to hidden states"
            )
        return list(self._decoder.get_submodule(self._layers_path))

    @property
    def layers_see_text(self) -> bool:
        """No: the encoder reads the prefix."""
        return False

    def resize(self, rows: int) -> None:
        """Add embedding rows, and head rows, as the mean of the old ones; a tied head stays tied."""
        resize_embeddings(self.model, rows)

    def decode(
        self,
        embeddings: Float[Tensor, "B S d"],
        *,
        attention_mask: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        cache: Cache | None = None,
        prefix_mask: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S d"]:
        """Hidden states of the decoder, each where its position is in the text. Positions are counted by the model itself.

        Raises `DataError` for a row whose prefix is empty, or does not lead it; and, with a cache, for answers that have begun
        and are not equally long.
        """
        check_tokens("transformers/seq2seq-lm", "embeddings", embeddings, self.width)
        if cache is not None and cache.get_seq_length() > 0:
            return self._continue(embeddings, cache)
        if prefix_mask is None:
            raise DataError("`transformers/seq2seq-lm` needs `prefix_mask`: which positions its encoder reads")
        rows, length = embeddings.shape[:2]
        there = torch.ones_like(prefix_mask) if attention_mask is None else attention_mask.bool()
        prefix_mask = prefix_mask & there
        answer_mask = there & ~prefix_mask
        self._check_prefix(prefix_mask, answer_mask, cached=cache is not None)

        # What the encoder reads stands at the front of its rows: some families count positions from there.
        read, read_mask = first_rows(prefix_mask)  # [B, P]
        encoded = self._encoder(
            inputs_embeds=take(embeddings, read), attention_mask=read_mask.to(torch.long)
        ).last_hidden_state  # [B, P, d]

        said, said_mask = first_rows(answer_mask)  # [B, A]
        start = torch.full((rows, 1), self.model.config.decoder_start_token_id, device=embeddings.device)
        begun = torch.cat([self.embedding(start).to(embeddings.dtype), take(embeddings, said)], dim=1)  # [B, 1 + A, d]
        begun_mask = torch.cat([torch.ones_like(start, dtype=torch.bool), said_mask], dim=1)
        memory = PrefixMemory(encoded, read_mask, None if cache is None else empty_decoder_cache())
        hidden = self._decode(begun, begun_mask, memory)  # [B, 1 + A, d]
        if cache is not None:
            memory.store(cache, length)

        # The start token's state stands at the last position of the prefix, those of the answer at their own.
        places = torch.arange(length, device=embeddings.device)
        last = torch.where(prefix_mask, places, -1).amax(dim=1, keepdim=True)  # [B, 1]
        nothing = hidden.new_zeros(rows, length, self.width)
        return put(nothing, torch.cat([last, said], dim=1), hidden, begun_mask)

    def _continue(self, embeddings: Float[Tensor, "B S d"], cache: Cache) -> Float[Tensor, "B S d"]:
        memory = PrefixMemory.recall(cache, len(self.decoder_layers))
        positions = cache.get_seq_length() + embeddings.shape[1]
        hidden = self._decode(embeddings, None, memory)
        memory.store(cache, positions)
        return hidden

    def _decode(
        self, embeddings: Float[Tensor, "B S d"], mask: Bool[Tensor, "B S"] | None, memory: PrefixMemory
    ) -> Float[Tensor, "B S d"]:
        return self._decoder(
            inputs_embeds=embeddings,
            attention_mask=None if mask is None else mask.to(torch.long),
            encoder_hidden_states=memory.encoded,
            encoder_attention_mask=memory.mask.to(torch.long),
            **cache_argument(memory.decoder),
            use_cache=memory.decoder is not None,
        ).last_hidden_state

    @staticmethod
    def _check_prefix(prefix: Bool[Tensor, "B S"], answer: Bool[Tensor, "B S"], *, cached: bool) -> None:
        read, said = prefix.sum(dim=1).tolist(), answer.sum(dim=1).tolist()
        late = ((answer.long().cumsum(dim=1) > 0) & prefix).any(dim=1).tolist()
        reasons = [
            f"row {row}: its prefix is empty, so the encoder has nothing to read" for row, n in enumerate(read) if n == 0
        ]
        reasons += [
            f"row {row}: a position of its prefix stands behind one of its answer"
            for row, is_late in enumerate(late)
            if is_late
        ]
        if cached and len(set(said)) > 1:
            reasons.append(f"with a cache, answers that have begun must be equally long, and they are {said} tokens long")
        if reasons:
            raise DataError("`transformers/seq2seq-lm` cannot read this batch", reasons)
