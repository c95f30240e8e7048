"""`keep-ratio` against Idefics2 in transformers: the same view for images of any size, and nobody sees what is cut off."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_neighbours import MEAN, STD, neighbours, noise, numbered, sizes, transform
from pydantic import ValidationError
from transformers import Idefics2Processor
from transformers.models.idefics2.configuration_idefics2 import Idefics2VisionConfig
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

from vlmzoo_layouts.config import KeepRatioConfig
from vlmzoo_layouts.keep_ratio import KeepRatio
from vlmzoo_registry import AssemblyError, VisionFeatures
from vlmzoo_registry.testing.chat_tokenizer import chat_tokenizer

LIMITS = st.sampled_from([(14, 70), (37, 98), (40, 40), (30, 61)])
COUNT = 9  # of `neighbours(..., pooled=True)`


def layout(shortest: int = 37, longest: int = 98) -> KeepRatio:
    options = KeepRatioConfig(shortest_edge=shortest, longest_edge=longest, patch=14)
    return KeepRatio(options, neighbours(98, 14, pooled=True))


def reference(shortest: int, longest: int) -> Idefics2ImageProcessorPil:
    size = {"shortest_edge": shortest, "longest_edge": longest}
    return Idefics2ImageProcessorPil(size=size, image_mean=MEAN, image_std=STD)


@settings(max_examples=60, deadline=None)
@given(sizes(28), LIMITS)
def test_the_view_is_that_of_idefics2_in_whole_patches(size, limits):
    ours = layout(*limits)
    image = noise(size)
    expected = reference(*limits)([[image]], return_tensors="pt")["pixel_values"][0, 0]
    height, width = ours.view_size(ours.arrangement(size))
    assert (height, width) == (expected.shape[1] // 14 * 14, expected.shape[2] // 14 * 14)
    (view,) = ours.cut(image, transform(98, "bilinear"))
    torch.testing.assert_close(view, expected[:, :height, :width], atol=1e-5, rtol=0)


def test_the_encoder_of_idefics2_does_not_see_what_is_cut_off():
    config = Idefics2VisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=98, patch_size=14
    )
    encoder = Idefics2VisionTransformer(config).eval()
    pixels = reference(37, 98)([[noise((50, 90))]], return_tensors="pt")["pixel_values"][0]
    assert pixels.shape == (1, 3, 50, 90)
    with torch.no_grad():
        everything, cut = encoder(pixels), encoder(pixels[:, :, :42, :84])
    assert everything.last_hidden_state.shape == (1, 18, 16)
    assert torch.equal(everything.last_hidden_state, cut.last_hidden_state)


def test_words_are_those_of_idefics2():
    tokenizer = chat_tokenizer(["<fake_token_around_image>", "<image>", "<end_of_utterance>"])
    processor = Idefics2Processor(reference(37, 98), tokenizer, image_seq_len=COUNT)
    ids = processor(text=["<image>"], images=[[noise((50, 90))]])["input_ids"][0]
    ours = layout()
    around, count, end = ours.text(ours.arrangement((50, 90)))
    assert tokenizer.convert_ids_to_tokens(ids) == [around, *["<image>"] * count, end]
    assert ours.control_tokens == (around,) == (end,)
    features = numbered(ours, ours.arrangement((50, 90)), COUNT)
    assert torch.equal(ours(features, ours.arrangement((50, 90))), features.tokens[0])


def test_tokens_that_depend_on_the_size_are_refused():
    with pytest.raises(AssemblyError) as error:
        KeepRatio(KeepRatioConfig(shortest_edge=14, longest_edge=28, patch=14), neighbours(28, 14))
    assert "as many for every size, and they are: 14x14 pixels 1, 14x28 pixels 2, 28x14 pixels 2, 28x28 pixels 4" in str(
        error.value
    )


def test_an_encoder_of_one_size_is_refused():
    with pytest.raises(AssemblyError, match="14x28 pixels: it takes 28x28 only"):
        KeepRatio(KeepRatioConfig(shortest_edge=14, longest_edge=28, patch=14), neighbours(28, 14, only=True))


def test_numbers_must_ascend():
    with pytest.raises(
        ValidationError, match=r"`patch` \(=14\), `shortest_edge` \(=8\) and `longest_edge` \(=98\) must ascend"
    ):
        KeepRatioConfig(shortest_edge=8, longest_edge=98)


def test_features_of_another_image_are_refused():
    ours = layout()
    with pytest.raises(AssemblyError, match=r"`layouts/keep-ratio`: the tokens of an image are \[1, 4, 5\], and .* 9 tokens"):
        ours(VisionFeatures(torch.zeros(1, 4, 5), None), ours.arrangement((50, 90)))
