"""Idefics2 (arXiv:2405.02246): a gated perceptron, then latents that gather what is in the tokens of a view."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from vlmzoo.data.reader import unpack_arrangements
from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import processor_options, transform_options
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
    """`Idefics2ForConditionalGeneration`: a view keeps the ratio of its image, whatever its size it becomes as many tokens.

    Images are not split. The processor writes a space between an image and a word that follows it at once, the zoo does not.
    """

    published = Idefics2ForConditionalGeneration
    pattern = Pattern(
        "unified",
        "transformers/vision",
        ("connectors/mlp", "connectors/perceiver"),
        "transformers/causal-lm",
        "layouts/keep-ratio",
    )

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

    def layout(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The longer side of an image is at most that of the tower, which the published model's is too."""
        tower = config.vision_config
        sizes = {"shortest_edge": min(378, tower.image_size), "longest_edge": tower.image_size}
        return {"name": "layouts/keep-ratio", "patch": tower.patch_size, **sizes}

    def preparation(self, processor: ProcessorMixin) -> dict[str, dict[str, Any]]:
        """Between which sizes images are scaled. Raises `AssemblyError` where they are split."""
        image_processor: Any = processor.image_processor
        if image_processor.do_image_splitting:
            raise AssemblyError(
                "no layout of the zoo splits images as Idefics2 does", ["`do_image_splitting: true`: set it to false"]
            )
        size = image_processor.size
        edges = {"shortest_edge": size["shortest_edge"], "longest_edge": size["longest_edge"]}
        return {"vision": transform_options(image_processor), "layout": edges}

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
        """The images row by row, zeros where a row has fewer, and which pixels are those of an image."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" not in batch:
            return inputs
        pixels = batch["pixel_values"]
        mask = torch.zeros(*pixels.shape[:2], *pixels.shape[3:], dtype=torch.long, device=pixels.device)
        for row, cuts in enumerate(unpack_arrangements(batch["image_layout"])):
            for image, cut in enumerate(cuts):
                mask[row, image, : cut.height, : cut.width] = 1
        return {**inputs, "pixel_values": pixels, "pixel_attention_mask": mask}

    def seen(self, inputs: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The tower does not see what is over whole patches, which the processor leaves and the zoo cuts off."""
        patch = config.vision_config.patch_size
        height, width = (side // patch * patch for side in inputs["pixel_values"].shape[3:])
        pixels, mask = inputs["pixel_values"][..., :height, :width], inputs["pixel_attention_mask"][..., :height, :width]
        return {**inputs, "pixel_values": pixels, "pixel_attention_mask": mask}

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Idefics2Processor:
        """Without splitting."""
        layout = model.config.model["layout"]
        return Idefics2Processor(
            image_processor=Idefics2ImageProcessorPil(
                do_image_splitting=False,
                size={"shortest_edge": layout["shortest_edge"], "longest_edge": layout["longest_edge"]},
                **processor_options(model.vision.transform),
            ),
            tokenizer=tokenizer,
            image_seq_len=config.perceiver_config.resampler_n_latents,
        )
