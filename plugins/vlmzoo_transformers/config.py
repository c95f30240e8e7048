"""The options of this plugin's components; importing them imports no framework."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vlmzoo_registry import ComponentConfig, EncoderOptions

DType = Literal["float32", "bfloat16", "float16"]


class PretrainedConfig(ComponentConfig):
    """Where a part comes from: pretrained weights, or an architecture with random ones."""

    model: str | None = Field(default=None, description="A pretrained id, or a folder that `save_pretrained` wrote.")
    config: dict[str, Any] | None = Field(
        default=None, description="The architecture, with random weights: `model_type` and the fields of its config class."
    )
    dtype: DType = Field(default="float32", description="The type the weights are kept in.")

    @model_validator(mode="after")
    def _one_source(self) -> "PretrainedConfig":
        if (self.model is None) == (self.config is None):
            given = "both" if self.model is not None else "neither"
            raise ValueError(f"give either `model` (pretrained weights) or `config` (an architecture), not {given}")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("`config` needs `model_type`, the name of the architecture in transformers (for example `llama`)")
        return self


class VisionConfig(EncoderOptions, PretrainedConfig):
    """The vision tower of a transformers model. Every field of the preprocessing that is left out is the model's own."""


class MllamaVisionConfig(PretrainedConfig):
    """The vision tower of Llama 3.2 Vision; which layers it taps is part of its architecture."""

    prefix: Literal["drop", "keep"] = Field(default="keep", description="What happens to the class token; published: kept.")


class TextConfig(PretrainedConfig):
    """What language models of transformers have in common."""

    tokenizer: str | None = Field(
        default=None, description="An id or folder; default: the model's own, or one token per byte for a random architecture."
    )
    attention: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = Field(
        default=None, description="The attention implementation; default: the best that transformers has for the family."
    )


class CausalLMConfig(TextConfig):
    """A causal language model of transformers."""

    prefix: Literal["none", "optional", "required"] = Field(
        default="none",
        description="Whether what stands before the answer sees itself in both directions: never, where it is asked for, or "
        "always (PaliGemma).",
    )
    span_positions: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="For blank infilling (GLM): how many places inside a span have an embedding, for example `64`; the tokens "
        "of this objective are then in the tokenizer. Needs a `prefix`.",
    )

    @model_validator(mode="after")
    def _spans_need_a_prefix(self) -> "CausalLMConfig":
        if self.span_positions is not None and self.prefix == "none":
            raise ValueError(
                f"`span_positions` (={self.span_positions}) needs a `prefix`: spans are said behind a text that sees itself in "
                "both directions; write `prefix: optional`"
            )
        return self


class MaskedLMConfig(TextConfig):
    """A bidirectional language model of transformers, of a family that also has a decoder (BERT, RoBERTa, ELECTRA)."""

    sentence_head: bool = Field(
        default=True,
        description="Whether it says if one text follows another (BERT); false for families trained without (RoBERTa).",
    )
    span_positions: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="For blank infilling (GLM): how many places inside a span have an embedding; as `causal-lm`."
    )


class Seq2SeqLMConfig(TextConfig):
    """An encoder-decoder model of transformers."""
