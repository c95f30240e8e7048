"""Several vision encoders in one model: each sees the image its own way, and their tokens are merged as the recipe says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import picture, section, shake
from torch.nn.functional import interpolate

import vlmzoo
from vlmzoo.model.merged_encoder import MergedEncoder
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, ConfigError

SMALL = {"name": "toy/vision", "image_size": 32, "width": 24}
LARGE = {"name": "toy/vision", "image_size": 48, "width": 16, "class_token": True}


def several(*encoders: dict[str, Any], **more: Any) -> dict[str, Any]:
    return section() | {"vision": list(encoders)} | more


@pytest.fixture(scope="module")
def model() -> VLM:
    torch.manual_seed(0)
    return shake(vlmzoo.build(several(SMALL, LARGE)))


def test_channels_lie_over_each_other_on_the_grid_of_the_first(model: VLM) -> None:
    image = picture(3, 90)
    batch = model.processor(text="a", images=image)
    assert batch["pixel_values"].shape == (1, 1, 6, 48, 48)
    assert model.image_shape.count == 16
    assert isinstance(model.vision, MergedEncoder)
    first, second = model.vision.parts
    merged = model.vision(batch["pixel_values"][0])
    assert (merged.grid, merged.prefix, merged.tokens.shape) == ((4, 4), 0, (1, 16, 24 + 16))
    alone = first(first.transform(image)[None]).tokens
    assert torch.equal(merged.tokens[..., :24], alone)
    other = second(second.transform(image)[None])
    assert other.grid == (6, 6)
    resampled = interpolate(other.tokens[0].T.reshape(1, 16, 6, 6), size=(4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(merged.tokens[..., 24:], resampled.flatten(2).transpose(1, 2))


def test_equal_grids_are_not_touched() -> None:
    vlm = vlmzoo.build(several(SMALL, SMALL | {"width": 8}))
    pixels = vlm.processor(text="a", images=picture(1))["pixel_values"][0]
    merged = vlm.vision(pixels)
    assert torch.equal(merged.tokens[..., 24:], vlm.vision.parts[1](pixels[:, 3:]).tokens)


def test_tokens_stand_behind_one_another() -> None:
    vlm = vlmzoo.build(several(SMALL, LARGE | {"width": 24, "prefix": "keep"}, merge="tokens"))
    assert (vlm.image_shape.count, vlm.image_shape.grid) == (16 + 37, None)
    pixels = vlm.processor(text="a", images=picture(1))["pixel_values"][0]
    first, second = vlm.vision.parts
    expected = [first(pixels[:, :3, :32, :32]).tokens, second(pixels[:, 3:]).tokens]
    assert torch.equal(vlm.vision(pixels).tokens, torch.cat(expected, dim=1))


def test_what_cannot_be_merged_is_refused_with_every_reason() -> None:
    with pytest.raises(AssemblyError) as caught:
        vlmzoo.build(several(SMALL, LARGE | {"prefix": "keep"}))
    assert str(caught.value) == (
        "the parts do not fit together\n"
        "  - `vision.1` (toy/vision) gives 37 tokens of width 16 (grid 6x6, prefix 1), which cannot be laid over a grid: give "
        "it `prefix: drop`, or `merge: tokens`"
    )
    with pytest.raises(AssemblyError, match=r"these differ \(toy/vision 24, toy/vision 16\): use `channels`"):
        vlmzoo.build(several(SMALL, LARGE, merge="tokens"))
    with pytest.raises(ConfigError, match="merge: is for several vision encoders, and there is one: leave it out"):
        vlmzoo.build(section() | {"merge": "channels"})


def test_it_is_saved_and_loaded_with_both_encoders(model: VLM, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    loaded = vlmzoo.load(tmp_path / "model")
    batch = model.processor(text="what", images=picture(2))
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert torch.equal(loaded.processor(text="what", images=picture(2))["pixel_values"], batch["pixel_values"])
    assert [record.name for record in loaded.components["vision"]] == ["toy/vision", "toy/vision"]


def test_the_plan_names_both(tmp_path: Path) -> None:
    plan = vlmzoo.plan(several(SMALL, LARGE))
    vision = next(part for part in plan.parts if part.part == "vision")
    assert vision.component == "toy/vision + toy/vision"
    assert vision.parameters == sum(vlmzoo.plan(several(one, one)).parts[0].parameters for one in (SMALL, LARGE)) // 2
    assert plan.steps[1] == "toy/vision + toy/vision: 16 tokens of width 40 (grid 4x4, prefix 0)"


def test_tiles_reach_every_encoder() -> None:
    vlm = vlmzoo.build(several(SMALL, LARGE, layout={"name": "layouts/dynamic-tiles", "max_tiles": 4}))
    batch = vlm.processor(text="a", images=picture(2, 96).crop((0, 0, 96, 48)))
    views = int(batch["image_mask"].sum())
    assert views > 1
    assert batch["pixel_values"].shape == (1, views, 6, 48, 48)
    assert (batch["pixel_values"][0, :, 3:] != 0).any(dim=-1).any(dim=-1).all()
    assert vlm(**batch).logits.isfinite().all()
