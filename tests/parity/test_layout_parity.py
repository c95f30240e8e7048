"""Layouts in whole models: Pixtral's rows and LLaVA-OneVision's shrunk tiles against the published classes, same weights."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from reference import copy_by_order, greedy, randomise, zoo_model
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from vlmzoo.data.padding import pad_rows
from vlmzoo.data.reader import ImageReader
from vlmzoo.model.vlm import VLM

IMAGE, CONTROL = 299, {"[IMG_BREAK]": 298, "[IMG_END]": 297}
SIZES = [(20, 44), (70, 31), (90, 80), (9, 90)]  # height, width
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


def zoo(vision: dict[str, Any], language: str, layout: dict[str, Any], theirs: nn.Module) -> VLM:
    """The zoo model of these parts with the weights of the published one."""
    ours = zoo_model(
        {
            "architecture": "unified",
            "vision": {"name": "transformers/vision", "mean": [0.5] * 3, "std": [0.5] * 3, "layers": [-1], **vision},
            "connector": {"name": "connectors/mlp", "depth": 2},
            "layout": layout,
            "language": {"name": "transformers/causal-lm", "config": {"model_type": language, **TEXT}},
        },
        IMAGE,
    )
    ours.vision.model.load_state_dict(theirs.model.vision_tower.state_dict())
    copy_by_order(ours.connector[0], theirs.model.multi_modal_projector)
    ours.language.model.model.load_state_dict(theirs.model.language_model.state_dict())
    ours.language.model.lm_head.load_state_dict(theirs.lm_head.state_dict())
    return ours


def images() -> list[Image.Image]:
    """Noise in four sizes."""
    draws = np.random.default_rng(0)
    return [Image.fromarray(draws.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def batch(ours: VLM) -> dict[str, Tensor]:
    """Two rows of text with two images each, padded on the left."""
    shown = images()
    reader = ImageReader(ours.vision.transform, ours.layout, ours.layout.text)
    words = torch.Generator().manual_seed(1)
    rows = []
    for pair in (shown[:2], shown[2:]):
        row: list[int] = []
        for image in pair:
            row += torch.randint(3, 290, (5,), generator=words).tolist()
            for piece in ours.layout.text(ours.layout.arrangement((image.height, image.width))):
                row += [CONTROL[piece]] if isinstance(piece, str) else [IMAGE] * piece
        rows.append(torch.tensor(row + torch.randint(3, 290, (6,), generator=words).tolist()))
    return {
        "input_ids": pad_rows(rows, 0, side="left"),
        "attention_mask": pad_rows([torch.ones_like(row) for row in rows], 0, side="left"),
        **reader.batch([shown[:2], shown[2:]], ["row 0", "row 1"]),
    }


def compare(ours: VLM, theirs: nn.Module, mine: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    """Logits where there is text, and what is generated from them."""
    real = mine["attention_mask"].bool()
    with torch.no_grad():
        logits, expected = ours(**mine).logits[real], theirs(**reference).logits[real]
    assert expected.std() > 0.1
    assert (logits - expected).abs().max() <= 1e-5
    assert torch.equal(greedy(ours, mine), greedy(theirs, reference))


def test_native_is_pixtral() -> None:
    torch.manual_seed(0)
    tower = PixtralVisionConfig(**VISION)
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower,
            text_config=LlamaConfig(**TEXT),
            image_token_index=IMAGE,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    ).eval()
    randomise(theirs)
    config = {"model_type": "pixtral", **VISION}
    ours = zoo({"config": config, "final_norm": False}, "llama", {"name": "layouts/native"}, theirs)
    mine = batch(ours)
    sizes = torch.tensor([ours.layout.view_size(ours.layout.arrangement(size)) for size in SIZES])
    assert len(set(map(tuple, sizes.tolist()))) == 4
    reference = {key: mine[key] for key in ("input_ids", "attention_mask")}
    compare(ours, theirs, mine, {**reference, "pixel_values": mine["pixel_values"].flatten(0, 1), "image_sizes": sizes})


def test_anyres_is_one_vision_with_the_gradient_of_its_newline() -> None:
    torch.manual_seed(0)
    grids = [[rows, columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    theirs = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**VISION),
            text_config=Qwen2Config(**TEXT),
            image_token_id=IMAGE,
            video_token_id=296,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_2",
            image_grid_pinpoints=[[32 * rows, 32 * columns] for rows, columns in grids],
        )
    ).eval()
    randomise(theirs)
    layout = {"name": "layouts/anyres", "grids": grids, "max_tiles": 2}
    vision = {"config": {"model_type": "siglip_vision_model", **VISION}, "final_norm": False}
    ours = zoo(vision, "qwen2", layout, theirs)
    with torch.no_grad():
        ours.layout.newline.copy_(theirs.model.image_newline)
    mine = batch(ours)
    cuts = [ours.layout.arrangement(size) for size in SIZES]
    counts = [ours.layout.views(cut) for cut in cuts]
    views = mine["pixel_values"][mine["image_mask"]].split(counts)
    pixels = torch.zeros(4, max(counts), 3, 32, 32)
    for number, image in enumerate(views):
        pixels[number, : len(image)] = image
    reference = {
        "input_ids": mine["input_ids"],
        "attention_mask": mine["attention_mask"],
        "pixel_values": pixels,
        "image_sizes": torch.tensor(SIZES),
        "batch_num_images": torch.ones(4, dtype=torch.long),
    }
    assert ours.layout.text(cuts[2]) == (8 * 8 + 11 * (10 + 1),)  # 24 rows of 22 tokens, shrunk
    compare(ours, theirs, mine, reference)

    labels = mine["input_ids"].masked_fill(mine["input_ids"] == IMAGE, -100).masked_fill(mine["attention_mask"] == 0, -100)
    ours(**mine, labels=labels).loss.backward()
    theirs(**reference, labels=labels).loss.backward()
    found, expected = ours.layout.newline.grad, theirs.model.image_newline.grad
    assert expected.abs().max() > 1e-4
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)
