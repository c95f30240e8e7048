"""`dynamic-tiles` against InternVL in transformers, and `tagged-tiles`, which cuts alike, against what NVLM's code writes."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_neighbours import IMAGE, MEAN, STD, neighbours, noise, numbered, patch_means, places, raw, sizes, slots, transform
from layout_neighbours import written as string
from pydantic import ValidationError
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.processing_internvl import InternVLProcessor

from vlmzoo_layouts.config import DynamicTilesConfig, TaggedTilesConfig
from vlmzoo_layouts.dynamic_tiles import DynamicTiles
from vlmzoo_layouts.tagged_tiles import TaggedTiles
from vlmzoo_registry import AssemblyError, VisionFeatures

SIDE, COUNT = 28, 49
LIMITS = st.tuples(st.integers(1, 12), st.integers(1, 12)).map(sorted)


def tiles(**options) -> DynamicTiles:
    return DynamicTiles(DynamicTilesConfig(**options), neighbours(SIDE, 4))


def tagged(**options) -> TaggedTiles:
    return TaggedTiles(TaggedTilesConfig(**options), neighbours(SIDE, 4))


def reference(least: int, most: int) -> GotOcr2ImageProcessorPil:
    size = {"height": SIDE, "width": SIDE}
    return GotOcr2ImageProcessorPil(
        size=size, image_mean=MEAN, image_std=STD, crop_to_patches=True, min_patches=least, max_patches=most
    )


@settings(max_examples=100, deadline=None)
@given(sizes(SIDE), LIMITS)
def test_tokens_are_those_of_internvl(size, limits):
    least, most = limits
    ours = tiles(min_tiles=least, max_tiles=most)
    cut = ours.arrangement(size)
    processor = SimpleNamespace(start_image_token="<img>", end_image_token="</img>", image_token=IMAGE, image_seq_length=COUNT)
    patches = reference(least, most).get_number_of_image_patches(*size)
    written = InternVLProcessor.replace_image_token(processor, {"num_patches": [patches]}, 0)
    assert string(ours.text(cut)) == written
    assert ours.views(cut) == patches
    features = numbered(ours, cut, COUNT)
    assert torch.equal(ours(features, cut), features.tokens.flatten(0, 1))
    assert slots(ours.text(cut)) == patches * COUNT


@settings(max_examples=25, deadline=None)
@given(sizes(SIDE), LIMITS)
def test_tiles_are_those_of_internvl(size, limits):
    least, most = limits
    image = noise(size)
    views = torch.stack(tiles(min_tiles=least, max_tiles=most).cut(image, transform(SIDE, "bicubic")))
    expected = reference(least, most)(image, return_tensors="pt")["pixel_values"]
    assert views.shape == expected.shape
    torch.testing.assert_close(views, expected, atol=1e-5, rtol=0)


def test_the_whole_image_is_the_last_view_or_the_only_one():
    ours = tiles()
    assert [ours.thumbnail(ours.arrangement(size)) for size in ((28, 28), (28, 56), (56, 84))] == [0, 2, 6]
    without = tiles(thumbnail=False)
    assert [without.thumbnail(ours.arrangement(size)) for size in ((28, 28), (28, 56))] == [0, None]
    assert without.text(ours.arrangement((28, 56))) == ("<img>", 2 * COUNT, "</img>")
    assert len(without.cut(noise((28, 56)), raw(SIDE))) == 2


@pytest.mark.parametrize("ours", [tiles(), tagged()], ids=["dynamic-tiles", "tagged-tiles"])
def test_tiles_stand_row_by_row(ours):
    cut = ours.arrangement((56, 84))
    assert (cut.rows, cut.columns) == (2, 3)
    out = ours(patch_means(ours.cut(places(56, 84), raw(SIDE))), cut).view(7, 7, 7, 3)
    for number in range(6):
        row, column = divmod(number, 3)
        assert torch.equal(out[number, :, :, 0], (7.0 * row + torch.arange(7.0))[:, None].expand(7, 7))
        assert torch.equal(out[number, :, :, 1], (7.0 * column + torch.arange(7.0))[None].expand(7, 7))
    assert out[6, 0, 0, :2].tolist() < [3, 3] < [10, 17] < out[6, 6, 6, :2].tolist()


def test_control_tokens():
    assert tiles().control_tokens == ("<img>", "</img>")
    assert tagged().control_tokens == ()


def test_limits_must_be_in_order():
    with pytest.raises(ValidationError, match=r"`min_tiles` \(=5\) must not be more than `max_tiles` \(=4\)"):
        DynamicTilesConfig(min_tiles=5, max_tiles=4)


@pytest.mark.parametrize(("ours", "name"), [(tiles(), "dynamic-tiles"), (tagged(), "tagged-tiles")])
def test_features_of_another_image_are_refused(ours, name):
    with pytest.raises(
        AssemblyError, match=rf"`layouts/{name}`: the tokens of an image are \[2, 49, 5\], and .* \[3 views, 49 tokens"
    ):
        ours(VisionFeatures(torch.zeros(2, 49, 5), (7, 7)), ours.arrangement((28, 56)))


@settings(max_examples=60, deadline=None)
@given(sizes(SIDE))
def test_tags_are_those_of_nvlm(size):
    ours = tagged()
    cut = ours.arrangement(size)
    views = reference(1, 6).get_number_of_image_patches(*size)
    # As NVLM-D's `chat` writes it: numbers from 1 for all views but the last, which is the whole.
    tags = [f"<tile_{number}>" for number in range(1, views)] + ["<tile_global_thumbnail>"]
    assert string(ours.text(cut)) == "<Image>" + "".join(tag + IMAGE * COUNT for tag in tags) + "</Image>"
    assert ours.thumbnail(cut) == ours.views(cut) - 1 == views - 1


@settings(max_examples=15, deadline=None)
@given(sizes(SIDE))
def test_tagged_tiles_are_those_of_internvl(size):
    image = noise(size)
    views = torch.stack(tagged().cut(image, transform(SIDE, "bicubic")))
    torch.testing.assert_close(views, reference(1, 6)(image, return_tensors="pt")["pixel_values"], atol=1e-5, rtol=0)
