"""InternVL (arXiv:2404.16821, 2504.10479): neighbours folded into the channels, a perceptron behind a norm, tiles."""

from collections.abc import Mapping
from copy import deepcopy
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import processor_options, transform_options
from vlmzoo.exchange.names import Names
from vlmzoo.exchange.sections import spelt_out
from vlmzoo.model.vlm import VLM


class InternVLExchange(Exchange):
    """`InternVLForConditionalGeneration`; how an image is cut is its processor's business, the class sees views."""

    published = InternVLForConditionalGeneration
    pattern = Pattern(
        "unified",
        "transformers/vision",
        ("connectors/pixel-shuffle", "connectors/mlp"),
        "transformers/causal-lm",
        "layouts/dynamic-tiles",
    )

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The last layer is taken behind the tower's norm, where it has one (`use_mean_pooling: false`); others before it."""
        vision = config.vision_config
        last = config.vision_feature_layer == -1
        return {
            "architecture": "unified",
            "vision": {
                "name": "transformers/vision",
                "config": architectures.fields(vision),
                "layers": architectures.blocks(config.vision_feature_layer, vision.num_hidden_layers),
                "final_norm": last and not vision.use_mean_pooling,
                "prefix": "drop" if config.vision_feature_select_strategy == "default" else "keep",
            },
            "connector": [
                {"name": "connectors/pixel-shuffle", "factor": round(1 / config.downsample_ratio)},
                {
                    "name": "connectors/mlp",
                    "depth": 2,
                    "activation": architectures.activation(config.projector_hidden_act),
                    "input_norm": "layer",
                },
            ],
            "language": architectures.causal_lm(config),
        }

    def preparation(self, processor: ProcessorMixin) -> dict[str, dict[str, Any]]:
        """How many tiles an image has; the processor cuts unless it is told not to."""
        image_processor: Any = processor.image_processor
        return {
            "vision": transform_options(image_processor),
            "layout": {"min_tiles": image_processor.min_patches, "max_tiles": image_processor.max_patches},
        }

    def names(self, config: PreTrainedConfig) -> Names:
        """Module by module."""
        return Names(
            (
                ("model.vision_tower", "vision.model"),
                ("model.multi_modal_projector.layer_norm", "connector.1.module.0"),
                ("model.multi_modal_projector.linear_1", "connector.1.module.1"),
                ("model.multi_modal_projector.linear_2", "connector.1.module.3"),
                *architectures.backbone_names(config.text_config, "model.language_model"),
            )
        )

    def config(self, model: VLM) -> PreTrainedConfig:
        """The tower and the decoder as they are."""
        section = spelt_out(model.config.model)
        tower = architectures.published(section["vision"])
        shuffle, mlp = section["connector"]
        text = deepcopy(model.language.text_config)
        return InternVLConfig(
            vision_config=tower,
            text_config=text,
            image_token_id=model.config.image_token_id,
            image_seq_length=model.image_shape.count,
            downsample_ratio=1 / architectures.sides(shuffle["factor"])[0],
            projector_hidden_act=architectures.published_activation(mlp["activation"]),
            vision_feature_layer=architectures.hidden_states(section["vision"]["layers"], tower.num_hidden_layers),
            vision_feature_select_strategy="full" if section["vision"]["prefix"] == "keep" else "default",
            tie_word_embeddings=text.tie_word_embeddings,
        )

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The views of all rows, one after the other."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" in batch:
            inputs["pixel_values"] = batch["pixel_values"][batch["image_mask"]]
        return inputs

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> InternVLProcessor:
        """The tokenizer is told the names of the tokens that the processor asks it for; films are no business of the zoo."""
        transform, layout = model.vision.transform, model.config.model["layout"]
        size = {"height": transform.height, "width": transform.width}
        token = model.processor.image_token.text
        named = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": token,
            "video_token": "</img>",  # the processor insists on one for films: one that no prompt contains
        }
        with TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            named_tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, extra_special_tokens=named)
        return InternVLProcessor(
            image_processor=GotOcr2ImageProcessorPil(
                crop_to_patches=True,
                min_patches=layout["min_tiles"],
                max_patches=layout["max_tiles"],
                size=size,
                **processor_options(transform),
            ),
            tokenizer=named_tokenizer,
            video_processor=InternVLVideoProcessor(size=size, **processor_options(transform)),
            image_seq_length=config.image_seq_length,
        )
