"""`split` against Idefics3 and SmolVLM in transformers: the same tiles, words and order for images of any size."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_neighbours import IMAGE, MEAN, STD, neighbours, noise, numbered, patch_means, places, raw, sizes, transform
from layout_neighbours import written as string
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil, get_resize_output_image_size
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from vlmzoo_layouts.config import SplitConfig
from vlmzoo_layouts.split import Split
from vlmzoo_registry import AssemblyError, LayoutContext, VisionFeatures

SIDE, COUNT = 28, 49
EDGES = st.sampled_from([20, 28, 29, 56, 57, 85, 112])


def layout(longest_edge: int | None = None) -> Split:
    return Split(SplitConfig(longest_edge=longest_edge), neighbours(SIDE, 4))


def reference(processor, image, longest_edge: int):
    """The pixels of the views, rows and columns."""
    made = processor(size={"longest_edge": longest_edge}, max_image_size={"longest_edge": SIDE}, image_mean=MEAN, image_std=STD)
    out = made([[image]], return_row_col_info=True, return_tensors="pt")
    return out["pixel_values"][0], out["rows"], out["cols"]


@pytest.mark.parametrize("processor", [Idefics3ImageProcessorPil, SmolVLMImageProcessorPil])
@settings(max_examples=25, deadline=None)
@given(sizes(SIDE), EDGES)
def test_tiles_and_words_are_those_of_the_reference(processor, size, longest_edge):
    ours = layout(longest_edge)
    cut = ours.arrangement(size)
    image = noise(size)
    expected, rows, columns = reference(processor, image, longest_edge)
    views = torch.stack(ours.cut(image, transform(SIDE, "lanczos")))
    assert views.shape == expected.shape
    torch.testing.assert_close(views, expected, atol=1e-5, rtol=0)

    bare = SimpleNamespace(
        fake_image_token="<fake_token_around_image>", global_image_tag="<global-img>", image_token=IMAGE, image_seq_len=COUNT
    )
    text = string(ours.text(cut))
    assert text == Idefics3Processor.replace_image_token(bare, {"rows": rows, "cols": columns}, 0)
    around = ("<fake_token_around_image>", IMAGE, "<global-img>")
    assert text == get_image_prompt_string(rows[0][0], columns[0][0], COUNT, *around)
    assert set(re.findall("<[^>]*>", text)) <= {*ours.control_tokens, IMAGE}

    features = numbered(ours, cut, COUNT)
    assert torch.equal(ours(features, cut), features.tokens.flatten(0, 1))
    assert text.count(IMAGE) == len(views) * COUNT


@settings(max_examples=100, deadline=None)
@given(sizes(SIDE), EDGES)
def test_no_image_has_more_rows_or_columns_than_there_are_words_for(size, longest_edge):
    ours = layout(longest_edge)
    cut = ours.arrangement(size)
    assert max(cut.rows, cut.columns) <= ours.most
    assert cut.rows * cut.columns == 1 or f"<row_{cut.rows}_col_{cut.columns}>" in ours.control_tokens


@settings(max_examples=60, deadline=None)
@given(sizes(1024), st.sampled_from([4095, 5000, 6001]))
def test_no_side_is_larger_than_4096(size, longest_edge):
    ours = Split(SplitConfig(longest_edge=longest_edge), neighbours(1024, 64))
    cut = ours.arrangement(size)
    # The reference's own steps, without the pixels: sizes alone.
    sizes_alone = SimpleNamespace(resize=lambda image, size, resample: size)
    scaled = get_resize_output_image_size(np.broadcast_to(np.uint8(0), (1, *size)), longest_edge)
    tiled = Idefics3ImageProcessorPil.resize_for_vision_encoder(sizes_alone, np.broadcast_to(np.uint8(0), (1, *scaled)), 1024)
    assert (cut.rows * 1024, cut.columns * 1024) == (tiled.height, tiled.width)
    assert max(cut.rows, cut.columns) <= ours.most == 4


def test_published_numbers():
    # Idefics3: 4 x 364 pixels, 169 tokens for each of 16 tiles and the whole.
    ours = Split(SplitConfig(), LayoutContext((364, 364), lambda size: neighbours(364, 28).shape_at(size), 5))
    text = ours.text(ours.arrangement((1000, 1000)))
    assert sum(piece for piece in text if isinstance(piece, int)) == 17 * 169
    assert text[:2] == ("<fake_token_around_image><row_1_col_1>", 169)
    assert text[8] == "\n<fake_token_around_image><row_2_col_1>"
    assert text[-3:] == ("\n\n<fake_token_around_image><global-img>", 169, "<fake_token_around_image>")
    assert len(ours.control_tokens) == 2 + 16


def test_tiles_stand_row_by_row_and_the_whole_last():
    ours = layout(84)
    cut = ours.arrangement((56, 84))
    assert (cut.rows, cut.columns, ours.thumbnail(cut)) == (2, 3, 6)
    out = ours(patch_means(ours.cut(places(56, 84), raw(SIDE))), cut).view(7, 7, 7, 3)
    for number in range(6):
        row, column = divmod(number, 3)
        assert torch.equal(out[number, :, :, 0], (7.0 * row + torch.arange(7.0))[:, None].expand(7, 7))
        assert torch.equal(out[number, :, :, 1], (7.0 * column + torch.arange(7.0))[None].expand(7, 7))


def test_an_image_of_one_tile_is_not_split():
    ours = layout(28)
    cut = ours.arrangement((10, 20))
    assert (ours.views(cut), ours.thumbnail(cut)) == (1, 0)
    assert ours.text(cut) == ("<fake_token_around_image><global-img>", COUNT, "<fake_token_around_image>")


def test_tiles_must_be_square():
    oblong = LayoutContext((28, 56), neighbours(28, 4).shape_at, 5)
    with pytest.raises(AssemblyError, match="`split` cuts square tiles, and a view of the encoder is 28x56 pixels"):
        Split(SplitConfig(), oblong)


def test_features_of_another_image_are_refused():
    ours = layout()
    with pytest.raises(
        AssemblyError, match=r"`layouts/split`: the tokens of an image are \[2, 49, 5\], and .* \[17 views, 49 tokens"
    ):
        ours(VisionFeatures(torch.zeros(2, 49, 5), (7, 7)), ours.arrangement((56, 56)))
