"""`anyres` against LLaVA-NeXT and LLaVA-OneVision in transformers: the same tiles, tokens and order for images of any size."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layout_neighbours import MEAN, STD, neighbours, noise, numbered, patch_means, places, raw, sizes, slots, transform
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel
from transformers.models.llava_onevision.processing_llava_onevision import LlavaOnevisionProcessor

from vlmzoo_layouts.anyres import Anyres
from vlmzoo_layouts.config import AnyresConfig
from vlmzoo_registry import AssemblyError, VisionFeatures

ONE_VISION = tuple((rows, columns) for rows in range(1, 7) for columns in range(1, 7))
PATCH = 4
SIDES = st.sampled_from([24, 28])  # grids of 6x6 and 7x7: half the padding is whole or not


def layout(side: int, **options) -> Anyres:
    return Anyres(AnyresConfig(**options), neighbours(side, PATCH))


def pinpoints(layout: Anyres, side: int) -> list[list[int]]:
    return [[rows * side, columns * side] for rows, columns in layout.grids]


def config(layout: Anyres, side: int) -> SimpleNamespace:
    """What the references read of a model's config."""
    vision = SimpleNamespace(image_size=side, patch_size=PATCH)
    return SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints(layout, side))


def reference_slots(processor, layout: Anyres, side: int, size: tuple[int, int], **attributes) -> int:
    """How many `<image>` the reference's processor writes for an image of this size."""
    bare = processor.__new__(processor)
    bare.image_processor = SimpleNamespace(image_grid_pinpoints=pinpoints(layout, side))
    bare.patch_size, bare.num_additional_image_tokens = PATCH, 0
    bare.image_token, bare.vision_feature_select_strategy = "i", "full"
    for name, value in attributes.items():
        setattr(bare, name, value)
    inputs = {"image_sizes": [size], "pixel_values": torch.zeros(1, 1, 3, side, side), "batch_num_images": [1]}
    return len(bare.replace_image_token(inputs, 0))


@settings(max_examples=60, deadline=None)
@given(SIDES.flatmap(lambda side: st.tuples(st.just(side), sizes(side))), st.sampled_from([True, False]))
def test_tokens_and_order_are_those_of_llava_next(case, newline):
    side, size = case
    ours = layout(side, newline=newline)
    cut = ours.arrangement(size)
    features = numbered(ours, cut, ours.grid[0] * ours.grid[1])
    out = ours(features, cut)
    model = SimpleNamespace(config=config(ours, side))
    packed, lengths = LlavaNextModel.pack_image_features(model, [features.tokens], [size], "full", image_newline=ours.newline)
    assert torch.equal(out, packed[0])
    assert slots(ours.text(cut)) == len(out) == int(lengths[0])
    if newline:
        assert len(out) == reference_slots(LlavaNextProcessor, ours, side, size)


@settings(max_examples=60, deadline=None)
@given(SIDES.flatmap(lambda side: st.tuples(st.just(side), sizes(side))), st.sampled_from([2, 5, 9]))
def test_tokens_and_order_are_those_of_one_vision(case, most):
    side, size = case
    ours = layout(side, grids=ONE_VISION, max_tiles=most)
    cut = ours.arrangement(size)
    features = numbered(ours, cut, ours.grid[0] * ours.grid[1])
    out = ours(features, cut)
    model, form = SimpleNamespace(config=config(ours, side)), f"anyres_max_{most}"
    packed, lengths = LlavaOnevisionModel.pack_image_features(model, [features.tokens], [size], ours.newline, form)
    assert torch.equal(out, packed[0])
    assert slots(ours.text(cut)) == len(out) == int(lengths[0])
    more = {"num_image_tokens": ours.grid[0] * ours.grid[1], "vision_aspect_ratio": form}
    assert len(out) == reference_slots(LlavaOnevisionProcessor, ours, side, size, **more)


def test_some_images_of_one_vision_are_shrunk():
    ours = layout(24, grids=ONE_VISION, max_tiles=2)
    assert ours.text(ours.arrangement((144, 144))) == (36 + 8 * (8 + 1),)
    assert layout(24, grids=ONE_VISION).text(ours.arrangement((144, 144))) == (36 + 36 * (36 + 1),)


@settings(max_examples=25, deadline=None)
@given(sizes(28))
def test_tiles_are_those_of_the_reference(size):
    ours = layout(28)
    image = noise(size)
    views = torch.stack(ours.cut(image, transform(28, "bicubic")))
    reference = LlavaNextImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_mean=MEAN,
        image_std=STD,
        image_grid_pinpoints=pinpoints(ours, 28),
    )
    expected = reference(image, return_tensors="pt")["pixel_values"][0]
    assert views.shape == expected.shape == (ours.views(ours.arrangement(size)), 3, 28, 28)
    torch.testing.assert_close(views, expected, atol=1e-5, rtol=0)


def test_published_numbers():
    # LLaVA-1.6 at 336 pixels: 576 tokens of the whole; a square image in 2x2 tiles has 48 rows of 48 and their ends.
    ours = Anyres(AnyresConfig(), neighbours(336, 14))
    assert ours.text(ours.arrangement((672, 672))) == (576 + 48 * 49,)
    assert ours.text(ours.arrangement((336, 1008))) == (576 + 24 * 73,)


def test_rows_run_through_all_tiles_of_an_image_that_says_where_it_is():
    ours = layout(24)
    image = places(48, 48)
    cut = ours.arrangement((48, 48))
    assert (cut.rows, cut.columns) == (2, 2)
    features = patch_means(ours.cut(image, raw(24)))
    width = VisionFeatures(torch.cat([features.tokens, torch.zeros(5, 36, 2)], dim=2), features.grid)
    large = ours(width, cut)[36:].view(12, 13, 5)
    assert torch.equal(large[:, :12, 0], torch.arange(12.0)[:, None].expand(12, 12))
    assert torch.equal(large[:, :12, 1], torch.arange(12.0)[None].expand(12, 12))
    assert torch.equal(large[:, 12], ours.newline.expand(12, 5))


def test_padding_stays_where_it_may():
    # An image twice as wide as high in 2x2 tiles: half the rows show nothing.
    padded, cut = layout(24, grids=((2, 2),), unpad=False), (24, 48)
    assert padded.text(padded.arrangement(cut)) == (36 + 12 * 13,)
    assert layout(24, grids=((2, 2),)).text(padded.arrangement(cut)) == (36 + 6 * 13,)
    features = numbered(padded, padded.arrangement(cut), 36)
    out = padded(features, padded.arrangement(cut))[36:].view(12, 13, 5)
    assert torch.equal(out[0, :6], features.tokens[1, :6])
    assert torch.equal(out[0, 6:12], features.tokens[2, :6])
    assert torch.equal(out[11, 6:12], features.tokens[4, 30:])


def test_an_image_that_is_a_line_keeps_the_view_of_the_whole():
    ours = layout(24)
    assert ours.text(ours.arrangement((1, 5000))) == (36,)


@pytest.mark.parametrize(
    ("context", "says"),
    [
        (neighbours(24, 4, pooled=True), "behind the connectors tokens have no grid: use a connector that keeps places"),
        (neighbours(24, 4, prefix=1), "1 of its tokens are no patches: let the encoder drop them (`prefix: drop`)"),
    ],
)
def test_tokens_without_places_are_refused(context, says):
    with pytest.raises(AssemblyError) as error:
        Anyres(AnyresConfig(), context)
    assert says in str(error.value)


def test_features_of_another_image_are_refused():
    ours = layout(24)
    with pytest.raises(
        AssemblyError, match=r"`layouts/anyres`: the tokens of an image are \[3, 36, 5\], and .* \[5 views, 36 tokens"
    ):
        ours(VisionFeatures(torch.zeros(3, 36, 5), (6, 6)), ours.arrangement((48, 48)))
