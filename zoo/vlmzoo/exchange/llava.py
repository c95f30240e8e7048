"""LLaVA (arXiv:2304.08485, 2310.03744): a tower's inner layers, a perceptron of two matrices, any decoder.

LLaVA-NeXT (`llava_next.py`) is made of the same parts, with a layout.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedConfig, PreTrainedTokenizerBase

from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import image_processor
from vlmzoo.exchange.names import Names
from vlmzoo.exchange.sections import spelt_out
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError


class LlavaExchange(Exchange):
    """`LlavaForConditionalGeneration`: one view per image, one or several layers of the tower, its class token cut or kept."""

    published = LlavaForConditionalGeneration
    pattern = Pattern("unified", "transformers/vision", ("connectors/mlp",), "transformers/causal-lm")

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """See `llava_section`."""
        return llava_section(config)

    def names(self, config: PreTrainedConfig) -> Names:
        """Module by module."""
        return Names(llava_names(config))

    def config(self, model: VLM) -> PreTrainedConfig:
        """The tower and the decoder as they are."""
        return LlavaConfig(image_seq_length=model.image_shape.count, **llava_fields(model))

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The images of all rows, one after the other."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" in batch:
            inputs["pixel_values"] = batch["pixel_values"][batch["image_mask"]]
        return inputs

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> LlavaProcessor:
        """Counts a class token that is cut, as the processor takes one away for it again."""
        return LlavaProcessor(
            image_processor=image_processor(model.vision.transform),
            tokenizer=tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            image_token=model.processor.image_token.text,
            num_additional_image_tokens=architectures.prefix_tokens(config.vision_config),
        )


def llava_section(config: PreTrainedConfig) -> dict[str, Any]:
    """The parts of a LLaVA. `default` cuts one token, the class token; a tower without one would lose a patch."""
    prefix = architectures.prefix_tokens(config.vision_config)
    cut = config.vision_feature_select_strategy == "default"
    if cut and prefix != 1:
        raise AssemblyError(
            "the zoo never takes a patch for a class token",
            [
                f"`vision_feature_select_strategy: default` cuts 1 token, and `{config.vision_config.model_type}` has "
                f"{prefix} before its patches"
            ],
        )
    return {
        "architecture": "unified",
        "vision": {
            "name": "transformers/vision",
            "config": architectures.fields(config.vision_config),
            "layers": architectures.blocks(config.vision_feature_layer, config.vision_config.num_hidden_layers),
            "final_norm": False,
            "prefix": None if prefix == 0 else "drop" if cut else "keep",
        },
        "connector": [
            {
                "name": "connectors/mlp",
                "depth": 2,
                "activation": architectures.activation(config.projector_hidden_act),
                "bias": config.multimodal_projector_bias,
            }
        ],
        "language": architectures.causal_lm(config),
    }


def llava_names(config: PreTrainedConfig) -> tuple[tuple[str, str], ...]:
    """Where its tensors stand, module by module."""
    return (
        ("model.vision_tower", "vision.model"),
        ("model.multi_modal_projector.linear_1", "connector.0.module.0"),
        ("model.multi_modal_projector.linear_2", "connector.0.module.2"),
        *architectures.backbone_names(config.text_config, "model.language_model"),
    )


def llava_fields(model: VLM) -> dict[str, Any]:
    """The fields of its config, from a zoo model of such parts."""
    section = spelt_out(model.config.model)
    tower = architectures.published(section["vision"])
    text = deepcopy(model.language.text_config)
    kept = section["vision"]["prefix"] == "keep" or architectures.prefix_tokens(tower) == 0
    return {
        "vision_config": tower,
        "text_config": text,
        "image_token_index": model.config.image_token_id,
        "projector_hidden_act": architectures.published_activation(section["connector"][0]["activation"]),
        "vision_feature_select_strategy": "full" if kept else "default",
        "vision_feature_layer": architectures.hidden_states(section["vision"]["layers"], tower.num_hidden_layers),
        "multimodal_projector_bias": section["connector"][0]["bias"],
        "tie_word_embeddings": text.tie_word_embeddings,
    }
