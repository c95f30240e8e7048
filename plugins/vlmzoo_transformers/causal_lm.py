"""Any causal language model of transformers behind the contract, with no code per family.

Embeddings and head come from transformers' own accessors; the decoder layers and what happens between the head and the
logits (Gemma 2's soft cap, Granite's and Cohere's scale) are found by running the model once.
"""

from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlmzoo_registry import AssemblyError, ConfigError, DataError, LanguageModel, PluginError, check_tokens
from vlmzoo_registry.compat.transformers import cache_argument, finished_masks
from vlmzoo_registry.infilling import add_infilling_tokens
from vlmzoo_registry.tasks import Reading
from vlmzoo_transformers.config import CausalLMConfig
from vlmzoo_transformers.logit_head import HeadPlan, find_head, plain_head
from vlmzoo_transformers.pretrained import architecture, resolve_text, torch_dtype
from vlmzoo_transformers.resizing import resize_embeddings
from vlmzoo_transformers.rows_attention import (
    attend_row_by_row,
    counted_calls,
    in_evaluation,
    own_attention,
    row_tables,
)
from vlmzoo_transformers.text_tokenizer import load_tokenizer
from vlmzoo_transformers.trace import find_backbone, find_layers, find_list, on_meta, probe, record_calls, run_backbone


class TransformersCausalLM(LanguageModel):
    """A `*ForCausalLM` of transformers; see `LanguageModel`."""

    def __init__(self, config: CausalLMConfig, described: PreTrainedConfig | None = None) -> None:
        """Build it as the config says; `described` is its architecture where that is not the one the config names."""
        super().__init__()
        self._config = config
        resolved = architecture(config) if described is None else described
        options: dict[str, Any] = {"dtype": torch_dtype(config.dtype)}
        if config.attention is not None:
            options["attn_implementation"] = config.attention
        try:
            if config.model is None:
                self.model: PreTrainedModel = AutoModelForCausalLM.from_config(resolved, **options)
            else:
                self.model = AutoModelForCausalLM.from_pretrained(config.model, config=resolved, **options)
        except ValueError as error:
            raise ConfigError(f"transformers builds no causal language model of `{resolved.model_type}`: {error}") from error
        self.model.eval()
        if torch.get_default_device() == torch.device("meta"):
            self.model.to("meta")  # some families make parameters out of values of their own
        self.span_table = None if config.span_positions is None else self._make_span_table(config.span_positions)
        # Without values (a plan) there are no logits to look at; nothing asks for the head then, nor for positions.
        if on_meta(self.model):
            self._head, self._first_position = plain_head(self.model), 0
        else:
            self._head, self._first_position = self._examine()
            if config.prefix != "none":
                self._prove_prefix()

    def _examine(self) -> tuple[HeadPlan, int]:
        try:
            hidden, first_position = run_backbone(self.model, self._backbone)
            embeddings = probe(self.model)
            head = find_head(
                self.model, self._backbone, hidden, lambda: self.model(inputs_embeds=embeddings, use_cache=False).logits
            )
            return head, first_position
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise PluginError(
                f"`{self.model.config.model_type}` cannot be run on embeddings without ids, and an image token has no id: "
                f"{type(error).__name__}: {error}"
            ) from error

    @classmethod
    def resolve(cls, config: CausalLMConfig) -> CausalLMConfig:
        """The same config with the architecture written out; reads `config.json`, offline."""
        return resolve_text(config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own, the one named in the config, or one token per byte for a random architecture."""
        tokenizer = load_tokenizer(self._config, self.embedding.weight.shape[0])
        if self.span_table is not None:
            add_infilling_tokens(tokenizer)
        return tokenizer

    @property
    def text_config(self) -> PreTrainedConfig:
        """The model's own config."""
        return self.model.config

    @property
    def width(self) -> int:
        """The size of an embedding that can be inserted."""
        return self.embedding.weight.shape[1]

    @property
    def embedding(self) -> nn.Module:
        """The input embedding, with whatever scale the family applies in it (Gemma)."""
        return self.model.get_input_embeddings()

    @property
    def head(self) -> nn.Module:
        """The output layer, with the scale or soft cap the family applies after it."""
        return self._head.head(self.model)

    @property
    def _backbone(self) -> nn.Module:
        return find_backbone(self.model)

    @cached_property
    def _layers_path(self) -> str | None:
        backbone = self._backbone
        meta = on_meta(self.model)
        # Making a mask looks at values in some families, and a meta tensor has none: there a finished mask is tried too.
        for mask in (None, torch.zeros(1, 1, 3, 3, device="meta")) if meta else (None,):
            options = {} if mask is None else {"attention_mask": mask}
            embeddings = torch.zeros(1, 3, self.width, device=self.model.device, dtype=self.model.dtype)

            def forward(options: dict[str, Any] = options, embeddings: Tensor = embeddings) -> Any:
                return backbone(inputs_embeds=embeddings, use_cache=False, **options)

            try:
                with torch.no_grad():
                    calls = record_calls(backbone, forward)
                # [B, S, d], nothing else: some families carry several streams of hidden states from layer to layer.
                return find_layers(backbone, [call for call in calls if call.input and len(call.input) == 3], self.width)
            except (RuntimeError, ValueError):
                if not meta:
                    raise
        # A family that older versions of torch cannot run without values (grouped experts): the plan goes by the number of
        # layers in the config, and the build, which has values, by what runs.
        return find_list(backbone, self.text_config.num_hidden_layers)

    @property
    def decoder_layers(self) -> Sequence[nn.Module]:
        """The layers that one forward calls once each, in order."""
        if self._layers_path is None:
            raise AssemblyError(
                f"`{self.text_config.model_type}`: no single list of layers that one forward calls once each, in order, from "
                "hidden states to hidden states; cross-attention needs one (use `architecture: unified`)"
            )
        return list(self._backbone.get_submodule(self._layers_path))

    @property
    def prefix(self) -> Literal["none", "optional", "required"]:
        """As the config says; a family that cannot is refused when it is built."""
        return self._config.prefix

    @property
    def reads(self) -> frozenset[Reading]:
        """A whole row as the prefix where there is a prefix, segments where the family has them, and spans where asked for."""
        found: set[Reading] = set() if self._config.prefix == "none" else {"full_prefix"}
        if self.text_config.to_dict().get("type_vocab_size", 0) > 1 and self._takes("token_type_ids"):
            found.add("segment_ids")
        if self.span_table is not None:
            found.add("span_positions")
        if self._rows_apart:
            found.add("row_lengths")
        return frozenset(found)

    @cached_property
    def _rows_apart(self) -> bool:
        """Whether rows that stand one after the other stay strangers: tried, as no family says so of itself.

        A recurrent layer, a convolution over positions, or positions counted from the start of the sequence would mix them.
        """
        try:
            row_tables(self.text_config, [1], [0])
        except ValueError:
            return False
        if on_meta(self.model):
            return True  # tried when it is built
        first, second, other = probe(self.model, 3), probe(self.model, 6)[:, 3:], probe(self.model, 9)[:, 6:]
        lengths = torch.tensor([3, 3])
        places = torch.arange(3, device=first.device)[None]
        with torch.no_grad(), in_evaluation(self), counted_calls() as calls:
            try:
                alone = self.decode(second, position_ids=places)
                behind = [
                    self.decode(torch.cat([before, second], 1), position_ids=places.repeat(1, 2), row_lengths=lengths)[:, 3:]
                    for before in (first, other)
                ]
            except torch.OutOfMemoryError:
                raise  # it says nothing of the family, and padded rows would take more
            except Exception:  # whatever a family of transformers does with a table in the place of its mask
                return False
        if own_attention(self.model) and len(calls) < len(behind) * self.text_config.num_hidden_layers:
            return False  # some layers do not ask which tokens are of one row
        # Rounding may differ: experts are multiplied with as many tokens as chose them.
        tolerance = torch.finfo(alone.dtype).eps ** 0.5
        return all(torch.allclose(seen, alone, rtol=tolerance, atol=tolerance) for seen in behind)

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
        segment_ids: Int[Tensor, "B S"] | None = None,
        span_positions: Int[Tensor, "B S"] | None = None,
        row_lengths: Int[Tensor, " R"] | None = None,
    ) -> Float[Tensor, "B S d"]:
        """Hidden states before the head. Families without position ids (ALiBi) take the positions from the mask.

        Raises `DataError` for a span that is longer than there are positions for.
        """
        check_tokens("transformers/causal-lm", "embeddings", embeddings, self.width)
        options: dict[str, Any] = {}
        if segment_ids is not None:
            options["token_type_ids"] = segment_ids
        if self.span_table is not None:
            embeddings = embeddings + self._inside_spans(embeddings, span_positions)
        if position_ids is None and self._first_position:
            # Such a family counts from the embeddings alone, as if nothing were in the cache.
            past = 0 if cache is None else cache.get_seq_length()
            position_ids = past + torch.arange(embeddings.shape[1], device=embeddings.device).expand(embeddings.shape[:2])
        if position_ids is not None and self._takes("position_ids"):
            options["position_ids"] = position_ids + self._first_position
        mask: Any = attention_mask
        if row_lengths is not None:
            mask = self._rows(row_lengths, prefix_mask)
        elif prefix_mask is not None:
            mask = self._masks(embeddings, attention_mask, cache, prefix_mask)
        return self._backbone(
            inputs_embeds=embeddings,
            attention_mask=mask,
            **cache_argument(cache),
            use_cache=cache is not None,
            **options,
        ).last_hidden_state

    def _masks(
        self,
        embeddings: Float[Tensor, "B S d"],
        attention_mask: Int[Tensor, "B T"] | None,
        cache: Cache | None,
        prefix_mask: Bool[Tensor, "B S"],
    ) -> Any:
        """Finished masks, one for each kind of layer (sliding windows), as transformers' own PaliGemma makes them."""
        # What is in block 0 sees all of it, -1 is causal.
        return finished_masks(self.text_config, embeddings, attention_mask, cache, torch.where(prefix_mask, 0, -1))

    def _rows(self, row_lengths: Int[Tensor, " R"], prefix_mask: Bool[Tensor, "B S"] | None) -> Any:
        """What stands in the place of masks where rows stand one after the other."""
        if not own_attention(self.model):
            # Flash and flex attention tell rows apart by positions that begin again.
            if prefix_mask is not None:
                raise DataError(
                    f"`attention: {self._config.attention}` sees no prefix in both directions where rows stand one after the "
                    "other: let the stage pad its batches (`batching: {mode: padded}`)"
                )
            return None
        attend_row_by_row(self.model)
        lengths = row_lengths.tolist()
        prefixes = [0] * len(lengths)
        if prefix_mask is not None:
            prefixes = [int(row.sum()) for row in prefix_mask[0].split(lengths)]
        return row_tables(self.text_config, lengths, prefixes)

    def _prove_prefix(self) -> None:
        """Raises `ConfigError` unless a prefix is seen both ways: not every family takes finished masks."""
        name = self.text_config.model_type
        embeddings = probe(self.model)
        other = torch.cat([embeddings[:, :1], 1 - embeddings[:, 1:]], dim=1)
        both = torch.ones(1, 2, dtype=torch.bool, device=embeddings.device)
        try:
            with torch.no_grad():
                one, two = (self.decode(given, prefix_mask=both)[:, 0] for given in (embeddings, other))
        except Exception as error:
            raise ConfigError(f"`prefix`: `{name}` takes no mask that opens a prefix to both sides: {error}") from error
        if torch.equal(one, two):
            raise ConfigError(f"`prefix`: `{name}` stays causal under a mask that opens a prefix to both sides")

    def reference_logits(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """What transformers' own forward gives for ids; for their embeddings where a table of places in spans adds to these."""
        if self.span_table is None:
            return self.model(input_ids=ids, use_cache=False).logits
        embeddings = self.embedding(ids)
        return self.model(inputs_embeds=embeddings + self._inside_spans(embeddings, None), use_cache=False).logits

    def _takes(self, name: str) -> bool:
        return name in signature(self._backbone.forward).parameters

    def _make_span_table(self, positions: int) -> nn.Embedding:
        """The embedding of places inside a span, which starts at 0: the model is at first what it was."""
        if not self._takes("position_ids"):
            raise ConfigError(
                f"`span_positions`: `{self.text_config.model_type}` takes no positions, and a token of a span stands where the "
                "span was: leave it out, or use a family with position ids"
            )
        table = nn.Embedding(positions + 1, self.width, dtype=torch_dtype(self._config.dtype))
        nn.init.zeros_(table.weight)
        return table

    def _inside_spans(
        self, embeddings: Float[Tensor, "B S d"], span_positions: Int[Tensor, "B S"] | None
    ) -> Float[Tensor, "B S d"]:
        """What is added for the place inside a span; outside of one the same for every token."""
        table = cast(nn.Embedding, self.span_table)
        if span_positions is None:
            span_positions = torch.zeros(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        longest = int(span_positions.max())
        if longest >= table.num_embeddings:
            raise DataError(
                f"a span of {longest - 1} tokens and its start need {longest} positions, and `span_positions` "
                f"(={table.num_embeddings - 1}) are fewer: raise it, or lower `mean_length` of the objective"
            )
        return table(span_positions).to(embeddings.dtype)
