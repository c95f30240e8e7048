"""Idefics3 (arXiv:2408.12637): neighbours folded into the channels, one matrix, split images."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import processor_options, transform_options
from vlmzoo.exchange.names import Names
from vlmzoo.exchange.sections import spelt_out
from vlmzoo.model.vlm import VLM


class Idefics3Exchange(Exchange):
    """`Idefics3ForConditionalGeneration`; how an image is cut is its processor's business, the class sees views."""

    published = Idefics3ForConditionalGeneration
    pattern = Pattern(
        "unified",
        "transformers/vision",
        ("connectors/pixel-shuffle", "connectors/linear"),
        "transformers/causal-lm",
        "layouts/split",
    )

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The tower's last norm is applied; the tower has no class token."""
        return {
            "architecture": "unified",
            "vision": {
                "name": "transformers/vision",
                "config": architectures.fields(config.vision_config),
                "layers": [-1],
                "final_norm": True,
            },
            "connector": [
                {"name": "connectors/pixel-shuffle", "factor": config.scale_factor},
                {"name": "connectors/linear", "bias": False},
            ],
            "language": architectures.causal_lm(config),
        }

    def preparation(self, processor: ProcessorMixin) -> dict[str, dict[str, Any]]:
        """A tile is as large as a view; the whole image is scaled to `size` first."""
        image_processor: Any = processor.image_processor
        options = transform_options(image_processor)
        return {"vision": options, "layout": {"longest_edge": image_processor.size["longest_edge"]}}

    def names(self, config: PreTrainedConfig) -> Names:
        """Module by module."""
        return Names(
            (
                ("model.vision_model", "vision.model"),
                ("model.connector.modality_projection.proj", "connector.1.module"),
                *architectures.backbone_names(config.text_config, "model.text_model"),
            )
        )

    def config(self, model: VLM) -> PreTrainedConfig:
        """The tower and the decoder as they are."""
        section = spelt_out(model.config.model)
        text = deepcopy(model.language.text_config)
        return Idefics3Config(
            vision_config=architectures.published(section["vision"]),
            text_config=text,
            image_token_id=model.config.image_token_id,
            scale_factor=architectures.sides(section["connector"][0]["factor"])[0],
            tie_word_embeddings=text.tie_word_embeddings,
        )

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The views row by row, zeros where a row has fewer; every pixel of a view is one of the image."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" in batch:
            pixels = batch["pixel_values"]
            inputs["pixel_values"] = pixels
            inputs["pixel_attention_mask"] = batch["image_mask"][..., None, None].expand(-1, -1, *pixels.shape[3:]).long()
        return inputs

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Idefics3Processor:
        """It has rows and columns of tiles; their tokens come with the layout."""
        transform = model.vision.transform
        return Idefics3Processor(
            image_processor=Idefics3ImageProcessorPil(
                size={"longest_edge": model.config.model["layout"]["longest_edge"] or 4 * transform.height},
                max_image_size={"longest_edge": transform.height},
                **processor_options(transform),
            ),
            tokenizer=tokenizer,
            image_seq_len=model.image_shape.count,
        )
