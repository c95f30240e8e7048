"""Llama 3.2 Vision (arXiv:2407.21783, section 7): blocks between the decoder's layers attend to the tiles of a canvas."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from vlmzoo.data.reader import unpack_arrangements
from vlmzoo.exchange import architectures
from vlmzoo.exchange.exchange import Exchange, Pattern
from vlmzoo.exchange.image_processors import processor_options
from vlmzoo.exchange.names import Names
from vlmzoo.exchange.sections import spelt_out
from vlmzoo.model.cross_attention import CrossAttentionVLM
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError
from vlmzoo_registry.tasks import IMAGE

_BLOCK = {
    "input_layernorm": "attention_norm",
    "cross_attn.q_proj": "query",
    "cross_attn.k_proj": "key",
    "cross_attn.v_proj": "value",
    "cross_attn.o_proj": "output",
    "cross_attn.q_norm": "query_norm",
    "cross_attn.k_norm": "key_norm",
    "cross_attn_attn_gate": "attention_gate",
    "post_attention_layernorm": "feedforward_norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.down_proj": "down",
    "cross_attn_mlp_gate": "feedforward_gate",
}
"""Where the tensors of a cross-attention layer stand in a block."""


class MllamaExchange(Exchange):
    """`MllamaForConditionalGeneration`: its cross-attention layers stand before the decoder layers that follow them.

    Words before the first image attend to everything there: to the image that comes, to tiles that are empty and to images of
    zeros that pad the batch. The zoo's `masked_rows: hf_mllama` does the same with the image alone, so that logits are equal
    where all tiles are filled and rows have as many images, or where an image stands first. An image is seen up to the next
    one; the processor lets images without words between them be seen together, the zoo does not.
    """

    published = MllamaForConditionalGeneration
    pattern = Pattern(
        "cross_attention",
        "transformers/mllama-vision",
        ("connectors/linear", "connectors/cross-attention"),
        "transformers/causal-lm",
        "layouts/canvas",
    )

    @property
    def reads_words_first(self) -> bool:
        """It depends on empty tiles and on padding."""
        return False

    def section(self, config: PreTrainedConfig) -> dict[str, Any]:
        """The decoder is Mllama's own without its cross-attention layers: it has eight ids more than its head."""
        text = config.text_config
        layers = [index - number for number, index in enumerate(text.cross_attention_layers)]
        depth = text.num_hidden_layers - len(layers)
        if layers != sorted(set(layers)) or layers[-1] >= depth:
            raise AssemblyError(
                "the zoo's blocks stand before a decoder layer each",
                [
                    f"`cross_attention_layers` (={text.cross_attention_layers}): behind each must come one of the {depth} "
                    "other layers"
                ],
            )
        decoder = {
            **architectures.fields(text),
            "model_type": "mllama_text_model",
            "cross_attention_layers": [],
            "num_hidden_layers": depth,
        }
        return {
            "architecture": "cross_attention",
            "vision": {"name": "transformers/mllama-vision", "config": architectures.fields(config.vision_config)},
            "connector": [
                {"name": "connectors/linear"},
                {
                    "name": "connectors/cross-attention",
                    "form": "llama",
                    "layers": layers,
                    "every": None,
                    "heads": text.num_attention_heads,
                    "key_value_heads": text.num_key_value_heads,
                    "feedforward_width": text.intermediate_size,
                    "activation": architectures.activation(text.hidden_act),
                    "norm_epsilon": text.rms_norm_eps,
                    "masked_rows": "hf_mllama",
                },
            ],
            "language": {"name": "transformers/causal-lm", "config": {"model_type": "mllama", "text_config": decoder}},
            "layout": {"name": "layouts/canvas", "max_tiles": config.vision_config.max_num_tiles},
        }

    def preparation(self, processor: ProcessorMixin) -> dict[str, dict[str, Any]]:
        """How large the canvas is stands in the model's config."""
        return {"vision": {}}

    def names(self, config: PreTrainedConfig) -> Names:
        """The layers of two kinds stand in one list there, in two here."""
        decoder, block = "language.model.model", "connector.1.blocks"
        pairs = [
            ("model.vision_model", "vision.model"),
            ("model.multi_modal_projector", "connector.0.module"),
            ("model.language_model.embed_tokens", f"{decoder}.embed_tokens"),
            ("model.language_model.norm", f"{decoder}.norm"),
            ("lm_head", "language.model.lm_head"),
        ]
        cross = config.text_config.cross_attention_layers
        for index in range(config.text_config.num_hidden_layers):
            there, before = f"model.language_model.layers.{index}", sum(other < index for other in cross)
            if index in cross:
                pairs += [(f"{there}.{theirs}", f"{block}.{before}.{ours}") for theirs, ours in _BLOCK.items()]
            else:
                pairs.append((there, f"{decoder}.layers.{index - before}"))
        return Names(tuple(pairs))

    def config(self, model: VLM) -> PreTrainedConfig:
        """The decoder must be Mllama's own; others have as many rows in the head as in the embedding."""
        section = spelt_out(model.config.model)
        whole = architectures.published(section["language"])
        if not isinstance(whole, MllamaConfig) or not isinstance(model, CrossAttentionVLM):
            raise AssemblyError(
                "the decoder is not Mllama's", [f"`language`: `model_type` is {whole.model_type}, and Mllama has mllama"]
            )
        text: Any = whole.text_config
        text.cross_attention_layers = [layer + number for number, layer in enumerate(model.layers.placement)]
        text.num_hidden_layers += len(text.cross_attention_layers)
        return MllamaConfig(
            vision_config=architectures.published(section["vision"]),
            text_config=text,
            image_token_index=model.config.image_token_id,
        )

    def inputs(self, batch: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
        """The tiles of each canvas, the number of its ratio, and which image each position sees: the last before it."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if "pixel_values" not in batch:
            return inputs
        pixels, vision = batch["pixel_values"], config.vision_config
        rows, images = pixels.shape[:2]
        side, most = vision.image_size, vision.max_num_tiles
        tiles = pixels.new_zeros(rows, images, most, 3, side, side)
        filled = torch.zeros(rows, images, most, dtype=torch.long, device=pixels.device)
        # What is no image has the first of its tiles marked and no ratio, as transformers pads.
        filled[..., 0] = 1
        ratios = torch.zeros(rows, images, dtype=torch.long, device=pixels.device)
        seen = _seen(batch["input_ids"] == config.image_token_id, images)[..., None].repeat(1, 1, 1, most)
        for row, cuts in enumerate(unpack_arrangements(batch["image_layout"])):
            for image, cut in enumerate(cuts):
                canvas = pixels[row, image, :, : cut.rows * side, : cut.columns * side]
                count = cut.rows * cut.columns
                parts = canvas.unflatten(1, (cut.rows, side)).unflatten(3, (cut.columns, side))  # [3, rows, h, columns, w]
                tiles[row, image, :count] = parts.permute(1, 3, 0, 2, 4).flatten(0, 1)
                filled[row, image, :count] = 1
                ratios[row, image] = vision.supported_aspect_ratios.index([cut.rows, cut.columns]) + 1
                seen[row, :, image, count:] = 0
        return {
            **inputs,
            "pixel_values": tiles,
            "aspect_ratio_ids": ratios,
            "aspect_ratio_mask": filled,
            "cross_attention_mask": seen,
        }

    def prompt(self, text: str, image_token: str, bos_token: str | None) -> dict[str, Any]:
        """The processor wants the beginning of the text in it, as its chat template writes it; else it comes twice."""
        return {"text": [(bos_token or "") + text.replace(IMAGE, image_token)], "add_special_tokens": False}

    def processor(self, model: VLM, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> MllamaProcessor:
        """The tokenizer must have Llama's beginning of a text, which the processor looks for."""
        transform = model.vision.transform
        return MllamaProcessor(
            image_processor=MllamaImageProcessorPil(
                size={"height": transform.height, "width": transform.width},
                max_image_tiles=config.vision_config.max_num_tiles,
                **processor_options(transform),
            ),
            tokenizer=tokenizer,
        )


def _seen(markers: Tensor, images: int) -> Int[Tensor, "B S I"]:
    """Which image each position sees: the last that stands at it or before it."""
    last = markers.long().cumsum(dim=1) - 1  # [B, S]
    return (last[..., None] == torch.arange(images, device=markers.device)).long()
