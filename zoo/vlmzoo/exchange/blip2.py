"""BLIP-2 (arXiv:2301.12597): a Q-Former between a tower that stays as it is and a decoder that stays as it is."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessorPil,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import processor_options
from vlmzoo.exchange.names import Names
from vlmzoo.exchange.sections import spelt_out
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError
from vlmzoo_registry.tasks import IMAGE

_ATTENTION = {
    "attention.query": "query",
    "attention.key": "key",
    "attention.value": "value",
    "output.dense": "output",
    "output.LayerNorm": "norm",
}
_FEEDFORWARD = {
    "intermediate_query.dense": "feedforward.up",
    "output_query.dense": "feedforward.down",
    "output_query.LayerNorm": "feedforward.norm",
}
"""Where the tensors of a layer of the Q-Former stand in the zoo's."""


class Blip2Exchange(Exchange):
    """`Blip2ForConditionalGeneration` with a decoder; the class token of the tower is kept, its last norm applied."""

    published = Blip2ForConditionalGeneration
    pattern = Pattern("unified", "transformers/vision", ("connectors/q-former",), "transformers/causal-lm")

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Raises `AssemblyError` for a Q-Former that reads text, and for an encoder-decoder model."""
        former = config.qformer_config
        reasons = []
        if not config.use_decoder_only_language_model:
            reasons.append(f"its language model (`{config.text_config.model_type}`) is no decoder alone")
        if former.use_qformer_text_input:
            reasons.append("`use_qformer_text_input`: its Q-Former reads text, which this class never gives it")
        if former.hidden_act != "gelu":
            reasons.append(f"`hidden_act` (={former.hidden_act}) of its Q-Former: `connectors/q-former` has gelu")
        if reasons:
            raise AssemblyError("Blip2: the zoo has no such parts", reasons)
        return {
            "architecture": "unified",
            "vision": {
                "name": "transformers/vision",
                "config": architectures.fields(config.vision_config),
                "layers": [-1],
                "final_norm": True,
                "prefix": "keep",
            },
            "connector": [
                {
                    "name": "connectors/q-former",
                    "queries": config.num_query_tokens,
                    "depth": former.num_hidden_layers,
                    "width": former.hidden_size,
                    "heads": former.num_attention_heads,
                    "feedforward_width": former.intermediate_size,
                    "cross_attention_every": former.cross_attention_frequency,
                    "norm_epsilon": former.layer_norm_eps,
                }
            ],
            "language": {"name": "transformers/causal-lm", "config": architectures.fields(config.text_config)},
        }

    def names(self, config: PreTrainedConfig) -> Names:
        """Module by module."""
        former, pairs = config.qformer_config, []
        for number in range(former.num_hidden_layers):
            there, here = f"qformer.encoder.layer.{number}", f"connector.0.layers.{number}"
            attentions = {"attention": "attention", "crossattention": "cross_attention"}
            pairs += [
                (f"{there}.{theirs}.{name}", f"{here}.{ours}.{own}")
                for theirs, ours in attentions.items()
                for name, own in _ATTENTION.items()
            ]
            pairs += [(f"{there}.{theirs}", f"{here}.{ours}") for theirs, ours in _FEEDFORWARD.items()]
        return Names(
            (
                ("vision_model", "vision.model"),
                ("query_tokens", "connector.0.queries"),
                ("qformer.layernorm", "connector.0.norm"),
                *pairs,
                ("language_projection", "connector.0.projection"),
                ("language_model", "language.model"),
            )
        )

    def config(self, model: VLM) -> PreTrainedConfig:
        """The tower and the decoder as they are."""
        section = spelt_out(model.config.model)
        former = section["connector"][0]
        return Blip2Config(
            vision_config=architectures.published(section["vision"]),
            qformer_config={
                "hidden_size": former["width"],
                "num_hidden_layers": former["depth"],
                "num_attention_heads": former["heads"],
                "intermediate_size": former["feedforward_width"],
                "cross_attention_frequency": former["cross_attention_every"],
                "layer_norm_eps": former["norm_epsilon"],
            },
            text_config=deepcopy(model.language.text_config),
            num_query_tokens=former["queries"],
            image_token_index=model.config.image_token_id,
        )

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The images of all rows, one after the other."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" in batch:
            inputs["pixel_values"] = batch["pixel_values"][batch["image_mask"]]
        return inputs

    def prompt(self, text: str, image_token: str, bos_token: str | None) -> dict[str, Any]:
        """Without a marker: the processor writes the image before everything else, the beginning of the text too."""
        return {"text": [text.replace(IMAGE, "")]}

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Blip2Processor:
        """It writes the image before the text, whatever the text says."""
        transform = model.vision.transform
        return Blip2Processor(
            image_processor=BlipImageProcessorPil(
                size={"height": transform.height, "width": transform.width}, **processor_options(transform)
            ),
            tokenizer=tokenizer,
            num_query_tokens=config.num_query_tokens,
        )
