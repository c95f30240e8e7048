"""Layouts in models: images of many sizes in one batch mean what they mean alone, in all three architectures."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import MLP, picture, section, shake
from torch import Tensor

import vlmzoo
import vlmzoo.labels
from vlmzoo.model.hybrid import HybridVLM
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, DataError, PluginError

TILES = {"name": "layouts/dynamic-tiles", "max_tiles": 4}
ANYRES = {"name": "layouts/anyres"}
BLOCKS = {"name": "connectors/cross-attention", "every": 1, "heads": 2, "head_width": 8}
MODELS = {
    "unified, thumbnail last": section() | {"layout": TILES},
    "unified, newlines": section() | {"layout": ANYRES},
    "cross-attention": section("cross_attention", connector=[BLOCKS]) | {"layout": TILES},
    "cross-attention, newlines": section("cross_attention", connector=[*MLP, BLOCKS]) | {"layout": ANYRES},
    "hybrid": section("hybrid", connector=[*MLP, BLOCKS]) | {"layout": TILES},
}
SIZES = [(40, 40), (40, 120), (100, 40), (90, 90)]  # width, height
_built: dict[str, VLM] = {}


def model(name: str) -> VLM:
    if name not in _built:
        torch.manual_seed(0)
        _built[name] = shake(vlmzoo.build(MODELS[name]))
    return _built[name]


def pictures(sizes: list[tuple[int, int]]) -> list[Any]:
    return [picture(seed, 120).crop((0, 0, *size)) for seed, size in enumerate(sizes)]


@pytest.fixture
def shown() -> list[Any]:
    return pictures(SIZES)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_many_sizes_is_its_rows_alone(name: str, shown: list[Any]) -> None:
    vlm = model(name)
    rows = [[shown[0]], [shown[1], shown[2]], [], [shown[3]]]
    texts = ["a", "<image> or <image>?", "no image at all", "what is here"]
    batch = vlm.processor(text=texts, images=rows)
    assert "image_layout" in batch and batch["image_layout"].shape == (4, 2, 4)
    together = vlm(**batch).logits[:, -1]
    for number, (text, images) in enumerate(zip(texts, rows, strict=True)):
        alone = vlm(**vlm.processor(text=text, images=[images])).logits[0, -1]
        torch.testing.assert_close(together[number], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_cache_and_beams_follow_rows_of_many_sizes(name: str, shown: list[Any]) -> None:
    vlm = model(name)
    batch = vlm.processor(text=["this <image>", "<image><image>"], images=[[shown[0]], [shown[1], shown[2]]])
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = vlm.generate(**batch, **options, use_cache=True)
    assert torch.equal(cached, vlm.generate(**batch, **options, use_cache=False))
    beams = vlm.generate(**batch, **options, num_beams=3)
    expanded = {key: tensor.repeat_interleave(3, dim=0) for key, tensor in batch.items()}
    same = vlm.generate(**expanded, **options, num_beams=3)
    assert torch.equal(beams, same[::3])


@pytest.mark.parametrize("name", MODELS)
def test_an_image_moves_nothing_before_it_and_every_view_counts(name: str, shown: list[Any]) -> None:
    vlm = model(name)
    batch = vlm.processor(text="before <image> behind", images=[[shown[1]]])
    before = int((batch["input_ids"][0] == vlm.config.image_token_id).nonzero()[0])
    plain = vlm(**batch).logits[0]
    views = int(batch["image_mask"].sum())
    assert views > 1
    for view in range(views):
        pixels = batch["pixel_values"].clone()
        pixels[0, view] += 1
        changed = (vlm(**{**batch, "pixel_values": pixels}).logits[0] - plain).abs().amax(dim=-1)
        assert changed[:before].max() == 0
        assert changed[-1] > 0, view


def test_rows_without_tiles_are_those_of_a_model_of_text(shown: list[Any]) -> None:
    """Hybrid: an image that is not cut has a thumbnail alone, so no block runs."""
    vlm = model("hybrid")
    batch = vlm.processor(text="a <image>", images=[[shown[0]]])
    assert batch["image_mask"].sum() == 1
    moved = list(vlm.layers.parameters())
    kept = [parameter.clone() for parameter in moved]
    before = vlm(**batch).logits
    with torch.no_grad():
        for parameter in moved:
            parameter.add_(1.0)
    assert torch.equal(vlm(**batch).logits, before)
    with torch.no_grad():
        for parameter, value in zip(moved, kept, strict=True):
            parameter.copy_(value)


def test_hybrid_with_closed_gates_reads_thumbnails_as_a_unified_model_does(shown: list[Any]) -> None:
    torch.manual_seed(1)
    hybrid = vlmzoo.build(MODELS["hybrid"])
    torch.manual_seed(1)
    unified = vlmzoo.build(section())
    unified.vision.load_state_dict(hybrid.vision.state_dict())
    unified.connector[0].load_state_dict(hybrid.connector[0].state_dict())
    unified.language.resize(len(hybrid.processor.tokenizer))  # the layout's own tokens
    unified.language.load_state_dict(hybrid.language.state_dict())
    unified.config.image_token_id = hybrid.config.image_token_id
    batch = hybrid.processor(text="see <image>", images=[[shown[1]]])
    layout = hybrid.layout
    last = layout.thumbnail(layout.arrangement((120, 40)))
    assert last == int(batch["image_mask"].sum()) - 1
    thumbnail = batch["pixel_values"][:, last : last + 1]
    reference = unified(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], pixel_values=thumbnail)
    assert torch.equal(hybrid(**batch).logits, reference.logits)
    assert isinstance(hybrid, HybridVLM)


def test_a_learnt_newline_belongs_to_the_connector_and_is_saved(tmp_path: Path, shown: list[Any]) -> None:
    vlm = model("unified, newlines")
    names = [name for name, _ in vlm.parts["connector"].named_parameters() if name.startswith("1.")]
    assert names, "the newline is a parameter of the layout"
    vlm.save_pretrained(tmp_path / "model")
    loaded = vlmzoo.load(tmp_path / "model")
    batch = vlm.processor(text="a <image>", images=[[shown[2]]])
    again = loaded.processor(text="a <image>", images=[[shown[2]]])
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert torch.equal(vlm(**batch).logits, loaded(**again).logits)


def _without(batch: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != key}


def test_batches_that_do_not_say_how_images_were_cut_are_refused(shown: list[Any]) -> None:
    vlm = model("unified, thumbnail last")
    batch = vlm.processor(text="a <image>", images=[[shown[1]]])
    with pytest.raises(DataError, match="`DynamicTiles` cuts images by their size, and the batch has no `image_layout`"):
        vlm(**_without(batch, "image_layout"))
    fewer = {**batch, "image_mask": batch["image_mask"].clone()}
    fewer["image_mask"][0, -1] = False
    views = int(batch["image_mask"].sum())
    with pytest.raises(DataError, match=f"row 0: {views - 1} views are there, but its 1 images have {views}"):
        vlm(**fewer)
    one_less = {**batch, "input_ids": batch["input_ids"].clone()}
    one_less["input_ids"][0, (batch["input_ids"][0] == vlm.config.image_token_id).nonzero()[0]] = 5
    tokens = views * vlm.image_shape.count
    with pytest.raises(DataError, match=f"row 0: {tokens - 1} image slots in `input_ids`, but 1 images x {tokens} tokens"):
        vlm(**one_less)


def test_hybrid_without_a_layout_that_cuts_is_refused() -> None:
    with pytest.raises(AssemblyError, match="attends to the tiles of an image, and without a `layout` there are none"):
        vlmzoo.build(section("hybrid", connector=[*MLP, BLOCKS]))


@pytest.mark.parametrize("check", [vlmzoo.build, vlmzoo.plan])
@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        (
            TILES | {"thumbnail": False},
            r"`layout` \(layouts/dynamic-tiles\) cuts an image of 64x32 into 2 tiles and has no view of the whole",
        ),
        (
            {"name": "layouts/canvas"},
            r"`layout` \(layouts/canvas\) makes one view of every image, and `architecture: hybrid` attends to tiles",
        ),
    ],
)
def test_hybrid_refuses_a_layout_without_tiles_or_without_the_whole(check: Any, layout: dict[str, Any], reason: str) -> None:
    with pytest.raises(AssemblyError, match=reason):
        check(section("hybrid", connector=[*MLP, BLOCKS]) | {"layout": layout})
    # The blocks of cross-attention see every tile, so nothing is lost there.
    check(section("cross_attention", connector=[*MLP, BLOCKS]) | {"layout": layout})


def test_hybrid_takes_no_tile_for_the_whole(shown: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout whose images of some size have no thumbnail, though those that the assembler asked about have one."""
    vlm = model("hybrid")
    batch = vlm.processor(text="a <image>", images=[[shown[1]]])
    monkeypatch.setattr(type(vlm.layout), "thumbnail", lambda layout, arrangement: None)
    with pytest.raises(PluginError, match=r"`DynamicTiles` cut an image into \d views and says that none shows the whole"):
        vlm(**batch)


def test_labels_show_each_run_of_slots_as_one_piece(tmp_path: Path) -> None:
    """The rows of a recipe whose images are cut: tiles, thumbnails and the tokens around them, none of them supervised."""
    rows = []
    for number, (width, height) in enumerate(SIZES):
        picture(number, 120).crop((0, 0, width, height)).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "a picture"}]
        rows.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    recipe = {
        "model": MODELS["unified, thumbnail last"],
        "stages": [
            {
                "name": "align",
                "objective": "caption",
                "data": [{"name": "llava", "path": str(tmp_path / "rows.json"), "images": str(tmp_path)}],
                "train": {"connector": {"lr": 1e-3}},
                "batch_size": 2,
                "steps": 1,
            }
        ],
    }
    found = vlmzoo.labels.labels(recipe, samples=4)
    vlm = model("unified, thumbnail last")
    for row in found.rows:
        width, height = SIZES[int(row.id)]
        text = vlm.layout.text(vlm.layout.arrangement((height, width)))
        images = [piece for piece in row.pieces if piece.kind == "image"]
        assert [piece.tokens for piece in images] == [piece for piece in text if isinstance(piece, int)]
        assert not any(piece.supervised for piece in images)
        assert sum(piece.tokens for piece in row.pieces) == row.tokens


def test_a_hybrid_model_writes_around_the_thumbnail_what_its_layout_writes_around_an_image(shown: list[Any]) -> None:
    vlm = model("hybrid")
    count = vlm.image_shape.count
    assert vlm.processor.images.text(vlm.layout.arrangement((40, 120))) == ("<img>", count, "</img>")
    tagged = vlmzoo.build(MODELS["hybrid"] | {"layout": {"name": "layouts/tagged-tiles"}})
    assert tagged.processor.images.text(tagged.layout.arrangement((40, 120))) == (
        "<Image><tile_global_thumbnail>",
        count,
        "</Image>",
    )
    always = vlmzoo.build(MODELS["hybrid"] | {"layout": ANYRES})  # it cuts every image
    assert always.processor.images.text(always.layout.arrangement((40, 120))) == (count,)


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_counts_the_tokens_that_a_model_sees(name: str) -> None:
    """For every size of the plan's table: those in the text are those of the processor, the others those attended to."""
    vlm = model(name)
    for planned in vlmzoo.plan(MODELS[name]).sizes:
        width, height = map(int, planned.image.split("x"))
        batch = vlm.processor(text="<image>", images=[[picture(0, 32).resize((width, height))]])
        (seen,) = vlm.encode_images(batch["pixel_values"], batch["image_mask"], batch["image_layout"])[0]
        slots = int((batch["input_ids"] == vlm.config.image_token_id).sum())
        attended = 0 if name.startswith("unified") else len(vlm.attended(seen))
        read = 0 if name.startswith("cross-attention") else slots
        assert (planned.text_slots, planned.image_tokens) == (slots, read + attended), planned.image
