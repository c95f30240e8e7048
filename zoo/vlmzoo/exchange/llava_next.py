"""LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next/): LLaVA's parts over the tiles of an image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from vlmzoo.data.reader import pad_images, unpack_arrangements
from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import processor_options
from vlmzoo.exchange.llava import llava_fields, llava_names, llava_section
from vlmzoo.exchange.names import Names
from vlmzoo.model.vlm import VLM


class LlavaNextExchange(Exchange):
    """`LlavaNextForConditionalGeneration`: the whole image, then the tiles of the best grid, unpadded, with line ends."""

    published = LlavaNextForConditionalGeneration
    pattern = Pattern("unified", "transformers/vision", ("connectors/mlp",), "transformers/causal-lm", "layouts/anyres")

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The grids are written in pixels there and in tiles here."""
        side = config.vision_config.image_size
        grids = [[height // side, width // side] for height, width in config.image_grid_pinpoints]
        return {**llava_section(config), "layout": {"name": "layouts/anyres", "grids": grids}}

    def names(self, config: PreTrainedConfig) -> Names:
        """LLaVA's, and the line end."""
        return Names((*llava_names(config), ("model.image_newline", "connector.1.newline")))

    def config(self, model: VLM) -> PreTrainedConfig:
        """LLaVA's, and the grids in pixels."""
        side = model.vision.transform.height
        grids = model.config.model["layout"]["grids"]
        return LlavaNextConfig(
            image_grid_pinpoints=[[rows * side, columns * side] for rows, columns in grids],
            image_seq_length=model.image_shape.count,
            **llava_fields(model),
        )

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The views of each image, padded to the most, and the size it had."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" not in batch:
            return inputs
        cuts = [cut for row in unpack_arrangements(batch["image_layout"]) for cut in row]
        views = batch["pixel_values"][batch["image_mask"]].split([1 + cut.rows * cut.columns for cut in cuts])
        inputs["pixel_values"], _ = pad_images([list(image) for image in views])
        inputs["image_sizes"] = torch.tensor([[cut.height, cut.width] for cut in cuts], device=batch["input_ids"].device)
        return inputs

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> LlavaNextProcessor:
        """The same grids; tiles are scaled with the encoder's filter."""
        transform = model.vision.transform
        size = {"height": transform.height, "width": transform.width}
        return LlavaNextProcessor(
            image_processor=LlavaNextImageProcessorPil(
                image_grid_pinpoints=config.image_grid_pinpoints,
                size={"shortest_edge": transform.height},
                crop_size=size,
                **processor_options(transform),
            ),
            tokenizer=tokenizer,
            patch_size=config.vision_config.patch_size,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
            image_token=model.processor.image_token.text,
            num_additional_image_tokens=architectures.prefix_tokens(config.vision_config),
        )
