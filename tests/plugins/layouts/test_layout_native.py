"""`native` against Pixtral in transformers: the same view, words and order for images of any size."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layout_neighbours import IMAGE, MEAN, STD, neighbours, noise, patch_means, places, raw, sizes, transform
from layout_neighbours import written as string
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.pixtral.processing_pixtral import PixtralProcessor

from vlmzoo_layouts.config import NativeConfig
from vlmzoo_layouts.native import Native
from vlmzoo_registry import AssemblyError, DataError, VisionFeatures

SIDE, STEP = 64, 4
EDGES = st.sampled_from([None, 20, 61, 64, 120])


def layout(longest_edge: int | None = None) -> Native:
    return Native(NativeConfig(longest_edge=longest_edge), neighbours(SIDE, STEP))


@settings(max_examples=80, deadline=None)
@given(sizes(SIDE), EDGES)
def test_view_and_words_are_those_of_pixtral(size, longest_edge):
    assume(min(size) * (longest_edge or SIDE) >= max(size))
    ours = layout(longest_edge)
    cut = ours.arrangement(size)
    image = noise(size)
    made = PixtralImageProcessorPil(
        size={"longest_edge": longest_edge or SIDE}, patch_size=STEP, image_mean=MEAN, image_std=STD
    )(image, return_tensors="pt")
    (view,) = ours.cut(image, transform(SIDE, "bicubic"))
    assert view.shape[1:] == ours.view_size(cut)
    torch.testing.assert_close(view, made["pixel_values"][0], atol=1e-5, rtol=0)
    # A patch of 2 pixels, 2x2 of which the connector merges, is a token of 4.
    bare = SimpleNamespace(
        patch_size=2, spatial_merge_size=2, image_token=IMAGE, image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]"
    )
    written = PixtralProcessor.replace_image_token(bare, {"image_sizes": made["image_sizes"].tolist()}, 0)
    assert string(ours.text(cut)) == written


def test_rows_of_an_image_that_says_where_it_is():
    ours = layout()
    cut = ours.arrangement((12, 20))
    assert ours.text(cut) == (5, "[IMG_BREAK]", 5, "[IMG_BREAK]", 5, "[IMG_END]")
    out = ours(patch_means(ours.cut(places(12, 20), raw(SIDE))), cut)
    assert out[:, :2].tolist() == [[row, column] for row in range(3) for column in range(5)]


def test_published_numbers():
    # Pixtral: 1024 pixels, patches of 16; a row of 64 tokens and its end, 64 times.
    ours = Native(NativeConfig(), neighbours(1024, 16))
    text = ours.text(ours.arrangement((3000, 3000)))
    assert text == (64, "[IMG_BREAK]") * 63 + (64, "[IMG_END]")
    assert ours.control_tokens == ("[IMG_BREAK]", "[IMG_END]")


def test_an_image_thinner_than_a_pixel_is_refused():
    with pytest.raises(
        DataError, match=r"an image of 2x4000 pixels, scaled down to a longest side of 64, is thinner than a pixel"
    ):
        layout().arrangement((2, 4000))


def test_an_encoder_of_one_size_is_refused():
    with pytest.raises(AssemblyError) as error:
        Native(NativeConfig(), neighbours(SIDE, STEP, only=True))
    assert "`native` gives the encoder views of the images' own sizes, and some do not go through:" in str(error.value)
    assert "64x4 pixels: it takes 64x64 only" in str(error.value)


@pytest.mark.parametrize("context", [neighbours(SIDE, STEP, prefix=1), neighbours(SIDE, STEP, pooled=True)])
def test_tokens_without_places_are_refused(context):
    with pytest.raises(AssemblyError, match=r"each must stand for a patch of the image: a view of 64x64 pixels has \d+ tokens"):
        Native(NativeConfig(), context)


def test_a_connector_that_shifts_the_grid_is_refused():
    def shape_at(size):
        return neighbours(SIDE, STEP).shape_at((size[0], 64))

    context = neighbours(SIDE, STEP)
    with pytest.raises(AssemblyError, match=r"64x4 pixels become 256 tokens .* not 16 tokens"):
        Native(NativeConfig(), type(context)(context.view_size, shape_at, context.width))


def test_features_of_another_image_are_refused():
    ours = layout()
    with pytest.raises(
        AssemblyError, match=r"`layouts/native`: the tokens of an image are \[1, 4, 5\], and .* \[1 views, 15 tokens"
    ):
        ours(VisionFeatures(torch.zeros(1, 4, 5), (2, 2)), ours.arrangement((12, 20)))
