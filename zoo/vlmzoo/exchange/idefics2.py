"""Idefics2 (arXiv:2405.02246): a gated perceptron, then latents that gather what is in the tokens of a view."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, PreTrainedConfig, ProcessorMixin

from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.names import Names
from vlmzoo.exchange.sections import spelt_out
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError

_LAYER = {
    "input_latents_norm": "latent_norm",
    "input_context_norm": "token_norm",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "output",
    "post_attention_layernorm": "feedforward_norm",
    "mlp.gate_proj": "feedforward.gate",
    "mlp.up_proj": "feedforward.up",
    "mlp.down_proj": "feedforward.down",
}
"""Where the tensors of a layer of the resampler stand in the zoo's perceiver."""


class Idefics2Exchange(Exchange):
    """`Idefics2ForConditionalGeneration` for images of one size; its processor keeps the ratio of an image and is not known."""

    published = Idefics2ForConditionalGeneration
    pattern = Pattern("unified", "transformers/vision", ("connectors/mlp", "connectors/perceiver"), "transformers/causal-lm")

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The perceptron has the hidden width and the activation of the decoder's."""
        text, perceiver = config.text_config, config.perceiver_config
        return {
            "architecture": "unified",
            "vision": {
                "name": "transformers/vision",
                "config": architectures.fields(config.vision_config),
                "layers": [-1],
                "final_norm": True,
                "prefix": "drop",
            },
            "connector": [
                {
                    "name": "connectors/mlp",
                    "gated": True,
                    "hidden_width": text.intermediate_size,
                    "activation": architectures.activation(text.hidden_act),
                    "bias": False,
                },
                {
                    "name": "connectors/perceiver",
                    "queries": perceiver.resampler_n_latents,
                    "depth": perceiver.resampler_depth,
                    "heads": perceiver.resampler_n_heads,
                    "key_value_heads": perceiver.num_key_value_heads,
                    "head_width": perceiver.resampler_head_dim,
                    "activation": architectures.activation(perceiver.hidden_act),
                    "norm_epsilon": perceiver.rms_norm_eps,
                },
            ],
            "language": architectures.causal_lm(config),
        }

    def preparation(self, processor: ProcessorMixin) -> dict[str, dict[str, Any]]:
        """Refused: no layout of the zoo does what the processor does."""
        raise AssemblyError(
            "images cannot be prepared as Idefics2 does it",
            ["its processor keeps the ratio of an image and pads to the largest: leave `processor` out, or use Idefics3"],
        )

    def names(self, config: PreTrainedConfig) -> Names:
        """Module by module."""
        there, here = "model.connector.perceiver_resampler", "connector.1"
        layers = [
            (f"{there}.layers.{number}.{theirs}", f"{here}.layers.{number}.{ours}")
            for number in range(config.perceiver_config.resampler_depth)
            for theirs, ours in _LAYER.items()
        ]
        projection = [
            (f"model.connector.modality_projection.{name}_proj", f"connector.0.module.0.{name}")
            for name in ("gate", "up", "down")
        ]
        return Names(
            (
                ("model.vision_model", "vision.model"),
                *projection,
                (f"{there}.latents", f"{here}.latents"),
                *layers,
                (f"{there}.norm", f"{here}.norm"),
                *architectures.backbone_names(config.text_config, "model.text_model"),
            )
        )

    def config(self, model: VLM) -> PreTrainedConfig:
        """The tower and the decoder as they are."""
        section = spelt_out(model.config.model)
        perceiver = section["connector"][1]
        text = deepcopy(model.language.text_config)
        return Idefics2Config(
            vision_config=architectures.published(section["vision"]),
            perceiver_config={
                "hidden_size": model.language.width,
                "hidden_act": architectures.published_activation(perceiver["activation"]),
                "rms_norm_eps": perceiver["norm_epsilon"],
                "resampler_n_latents": perceiver["queries"],
                "resampler_depth": perceiver["depth"],
                "resampler_n_heads": perceiver["heads"],
                "resampler_head_dim": perceiver["head_width"],
                "num_key_value_heads": perceiver["key_value_heads"],
            },
            text_config=text,
            image_token_id=model.config.image_token_id,
            tie_word_embeddings=text.tie_word_embeddings,
        )

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The images row by row, zeros where a row has fewer."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" in batch:
            inputs["pixel_values"] = batch["pixel_values"]
        return inputs

    def processor(self, model: VLM, config: PreTrainedConfig) -> ProcessorMixin:
        """Refused: it would prepare other images."""
        raise AssemblyError(
            "images cannot be prepared as the zoo does it",
            ["Idefics2: its processor keeps the ratio of an image, and the zoo model's encoder sees one size"],
        )
