"""`canvas` against Mllama in transformers: the same canvas, tile by tile, for images of any size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_neighbours import MEAN, STD, neighbours, noise, patch_means, places, raw, sizes, transform
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil, get_all_supported_aspect_ratios

from vlmzoo_layouts.canvas import Canvas
from vlmzoo_layouts.config import CanvasConfig
from vlmzoo_registry import AssemblyError, LayoutContext, VisionFeatures

SIDE = 28


def layout(max_tiles: int = 4) -> Canvas:
    return Canvas(CanvasConfig(max_tiles=max_tiles), neighbours(SIDE, 4))


@settings(max_examples=80, deadline=None)
@given(sizes(SIDE), st.sampled_from([1, 2, 4, 6]))
def test_the_canvas_is_that_of_mllama(size, most):
    ours = layout(most)
    cut = ours.arrangement(size)
    image = noise(size)
    made = MllamaImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_image_tiles=most, image_mean=MEAN, image_std=STD)(
        image, return_tensors="pt"
    )
    # The reference calls the first of the two numbers height; its list is symmetric.
    rows, columns = get_all_supported_aspect_ratios(most)[int(made["aspect_ratio_ids"]) - 1]
    assert (cut.rows, cut.columns) == (rows, columns)
    tiles = made["pixel_values"][0, 0, : rows * columns].view(rows, columns, 3, SIDE, SIDE)
    expected = tiles.permute(2, 0, 3, 1, 4).reshape(3, rows * SIDE, columns * SIDE)
    (view,) = ours.cut(image, transform(SIDE, "bilinear"))
    assert view.shape[1:] == ours.view_size(cut)
    torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


def test_the_image_lies_at_the_top_left():
    ours = layout()
    cut = ours.arrangement((28, 48))
    assert (cut.rows, cut.columns) == (1, 2)
    out = ours(patch_means(ours.cut(places(28, 48), raw(SIDE))), cut).view(7, 14, 3)
    assert torch.equal(out[:, :12, 1], torch.arange(12.0).expand(7, 12))
    assert not out[:, 12:].any()
    assert ours.text(cut) == (7 * 14,)
    assert ours.thumbnail(cut) == 0


def test_an_encoder_without_canvases_is_refused():
    with pytest.raises(AssemblyError) as error:
        Canvas(CanvasConfig(max_tiles=2), neighbours(SIDE, 4, only=True))
    assert error.value.reasons == ("1x2 tiles: it takes 28x28 only", "2x1 tiles: it takes 28x28 only")


def test_tiles_must_be_square():
    with pytest.raises(AssemblyError, match="`canvas` is made of square tiles, and a view of the encoder is 28x56 pixels"):
        Canvas(CanvasConfig(), LayoutContext((28, 56), neighbours(28, 4).shape_at, 5))


def test_features_of_another_image_are_refused():
    ours = layout()
    with pytest.raises(
        AssemblyError, match=r"`layouts/canvas`: the tokens of an image are \[1, 49, 5\], and .* \[1 views, 98 tokens"
    ):
        ours(VisionFeatures(torch.zeros(1, 49, 5), (7, 7)), ours.arrangement((28, 48)))
