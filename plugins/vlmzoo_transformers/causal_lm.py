"""Any causal language model of transformers behind the contract, with no code per family.

Embeddings and head come from transformers' own accessors; the decoder layers and what happens between the head and the
logits (Gemma 2's soft cap, Granite's and Cohere's scale) are found by running the model once.
"""

from collections.abc import Sequence
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from vlmzoo_registry import AssemblyError, ConfigError, LanguageModel, check_tokens
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer
from vlmzoo_transformers.config import CausalLMConfig
from vlmzoo_transformers.logit_head import LogitHead, LogitTransform, find_logit_transform
from vlmzoo_transformers.pretrained import architecture, torch_dtype, written_out
from vlmzoo_transformers.trace import find_layers, find_list, on_meta, record_calls


class TransformersCausalLM(LanguageModel):
    """A `*ForCausalLM` of transformers; see `LanguageModel`."""

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__()
        self._config = config
        resolved = architecture(config)
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
        # Without values (a plan) there are no logits to look at; nothing asks for the head then.
        self._transform = LogitTransform() if on_meta(self.model) else find_logit_transform(self.model)

    @classmethod
    def resolve(cls, config: CausalLMConfig) -> CausalLMConfig:
        """The same config with the architecture written out; reads `config.json`, offline."""
        written = written_out(architecture(config, offline=True))
        return config.model_copy(update={"model": None, "config": written, "tokenizer": config.tokenizer or config.model})

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own, the one named in the config, or one token per byte for a random architecture."""
        source = self._config.tokenizer or self._config.model
        if source is None:
            rows = self.embedding.weight.shape[0]
            if rows < BYTE_TOKENS:
                raise ConfigError(
                    f"`vocab_size` (={rows}) must be at least {BYTE_TOKENS}, one row per byte and three special tokens, "
                    "where no `tokenizer` is named"
                )
            return byte_tokenizer()
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if not tokenizer.is_fast:
            raise ConfigError(f"the tokenizer of {source!r} gives no character offsets; labels need a fast tokenizer")
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
        linear = self.model.get_output_embeddings()
        return linear if self._transform == LogitTransform() else LogitHead(linear, self._transform)

    @cached_property
    def _layers_path(self) -> str | None:
        backbone = self.model.base_model
        meta = on_meta(self.model)
        # Making a mask looks at values in some families, and a meta tensor has none: there a finished mask is tried too.
        for mask in (None, torch.zeros(1, 1, 3, 3, device="meta")) if meta else (None,):
            options = {} if mask is None else {"attention_mask": mask}
            embeddings = torch.zeros(1, 3, self.width, device=self.model.device, dtype=self.model.dtype)

            def forward(options: dict[str, Any] = options, embeddings: Tensor = embeddings) -> Any:
                return backbone(inputs_embeds=embeddings, use_cache=False, **options)

            try:
                with torch.no_grad():
                    return find_layers(backbone, record_calls(backbone, forward), self.width)
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
        return list(self.model.base_model.get_submodule(self._layers_path))

    def resize(self, rows: int) -> None:
        """Add embedding rows, and head rows, as the mean of the old ones; a tied head stays tied."""
        old = self.embedding.weight.shape[0]
        if rows <= old:
            return
        # transformers draws the new rows at random by default; the mean is as good a start and the same at every build.
        with torch.random.fork_rng(devices=[]):
            self.model.resize_token_embeddings(rows, mean_resizing=False)
        if on_meta(self.model):
            return
        with torch.no_grad():
            for module in (self.embedding, self.model.get_output_embeddings()):
                known = module.weight[:old]
                module.weight[old:] = known.float().mean(dim=0).to(known.dtype)

    def decode(
        self,
        embeddings: Float[Tensor, "B S d"],
        *,
        attention_mask: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B S"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B S d"]:
        """Hidden states before the head. Families without position ids (ALiBi) take the positions from the mask."""
        check_tokens("transformers/causal-lm", "embeddings", embeddings, self.width)
        options: dict[str, Any] = {}
        if position_ids is not None and self._takes_positions:
            options["position_ids"] = position_ids
        return self.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=cache is not None,
            **options,
        ).last_hidden_state

    def reference_logits(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """What transformers' own forward gives for ids."""
        return self.model(input_ids=ids, use_cache=False).logits

    @cached_property
    def _takes_positions(self) -> bool:
        return "position_ids" in signature(self.model.base_model.forward).parameters
