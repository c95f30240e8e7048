"""PaliGemma (arXiv:2407.07726, 2412.03555): one matrix, and a decoder that reads image and prompt in both directions."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import (
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import image_processor
from vlmzoo.exchange.names import Names
from vlmzoo.exchange.sections import spelt_out
from vlmzoo.model.vlm import VLM

# What the class's config writes into those of its parts, which their own models do not read or are told by the zoo.
_WRITTEN_IN = ("projection_dim", "num_image_tokens", "use_bidirectional_attention")


class PaliGemmaExchange(Exchange):
    """`PaliGemmaForConditionalGeneration`: what its `token_type_ids` say is the zoo's `prefix_mask`.

    It counts positions from 1, the zoo from 0: rotary embeddings know only distances, so logits are equal but for rounding.
    """

    published = PaliGemmaForConditionalGeneration
    pattern = Pattern("unified", "transformers/vision", ("connectors/linear",), "transformers/causal-lm")

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The tower's last norm is applied; the tower has no class token."""
        language = architectures.causal_lm(config)
        return {
            "architecture": "unified",
            "vision": {
                "name": "transformers/vision",
                "config": _own(architectures.fields(config.vision_config)),
                "layers": [-1],
                "final_norm": True,
            },
            "connector": [{"name": "connectors/linear"}],
            "language": {**language, "config": _own(language["config"]), "prefix": "required"},
        }

    def names(self, config: PreTrainedConfig) -> Names:
        """Module by module."""
        return Names(
            (
                ("model.vision_tower", "vision.model"),
                ("model.multi_modal_projector.linear", "connector.0.module"),
                *architectures.backbone_names(config.text_config, "model.language_model"),
            )
        )

    def config(self, model: VLM) -> PreTrainedConfig:
        """The tower and the decoder as they are."""
        section = spelt_out(model.config.model)
        text = deepcopy(model.language.text_config)
        return PaliGemmaConfig(
            vision_config=architectures.published(section["vision"]),
            text_config=text,
            image_token_index=model.config.image_token_id,
            projection_dim=model.language.width,
            hidden_size=model.language.width,
            tie_word_embeddings=text.tie_word_embeddings,
        )

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The images of all rows, one after the other; type 0 is read in both directions, all of it where nothing is said."""
        ids = batch["input_ids"]
        prefix = batch.get("prefix_mask", torch.ones_like(ids, dtype=torch.bool))
        inputs = {"input_ids": ids, "attention_mask": batch["attention_mask"], "token_type_ids": (~prefix).long()}
        if "pixel_values" in batch:
            inputs["pixel_values"] = batch["pixel_values"][batch["image_mask"]]
        return inputs

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PaliGemmaProcessor:
        """It writes a line break behind the prompt, as the published models were trained; the zoo's template must do so too."""
        processor: Any = image_processor(model.vision.transform)
        processor.image_seq_length = model.image_shape.count
        return PaliGemmaProcessor(image_processor=processor, tokenizer=tokenizer)


def _own(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key not in _WRITTEN_IN}
