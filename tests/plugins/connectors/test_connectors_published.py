"""Chains of small connectors against the projectors of published models, and against coordinates: which place goes where."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import (
    AyaVisionConfig,
    Cohere2VisionConfig,
    Gemma3Config,
    Llama4VisionConfig,
    Mistral3Config,
    PerceptionLMConfig,
    VipLlavaConfig,
)
from transformers.models.aya_vision.modeling_aya_vision import AyaVisionMultiModalProjector
from transformers.models.cohere2_vision.modeling_cohere2_vision import Cohere2VisionMultiModalProjector
from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector
from transformers.models.idefics2.modeling_idefics2 import Idefics2MLP
from transformers.models.llama4.modeling_llama4 import Llama4VisionPixelShuffleMLP
from transformers.models.mistral3.modeling_mistral3 import Mistral3MultiModalProjector
from transformers.models.perception_lm.modeling_perception_lm import PerceptionLMMultiModalProjector
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger
from transformers.models.vipllava.modeling_vipllava import VipLlavaMultiModalProjector

from vlmzoo_connectors.adaptive_pool import adaptive_pool
from vlmzoo_connectors.average_pool import average_pool
from vlmzoo_connectors.config import (
    AdaptivePoolConfig,
    AveragePoolConfig,
    IdentityConfig,
    InterpolateConfig,
    LinearConfig,
    MlpConfig,
    NormConfig,
    PixelShuffleConfig,
)
from vlmzoo_connectors.identity import identity
from vlmzoo_connectors.interpolate import interpolate
from vlmzoo_connectors.linear import linear
from vlmzoo_connectors.mlp import mlp
from vlmzoo_connectors.norm import norm
from vlmzoo_connectors.pixel_shuffle import pixel_shuffle
from vlmzoo_registry import AssemblyError, Connector, ConnectorContext, FeatureShape, VisionFeatures

LANGUAGE = 20


def context(width=12, grid=(4, 6), prefix=0, output=None) -> ConnectorContext:
    count = prefix + (grid[0] * grid[1] if grid else 7)
    return ConnectorContext(FeatureShape(width, count, grid, prefix), output, LANGUAGE, 2)


def features(where: ConnectorContext) -> VisionFeatures:
    tokens = torch.randn(2, where.input.count, where.input.width, generator=torch.Generator().manual_seed(0))
    return VisionFeatures(tokens, where.input.grid, where.input.prefix)


def chain(where: ConnectorContext, *links) -> list[Connector]:
    """Links one after the other, as the assembler builds them: the last one puts out the width of the language model."""
    built: list[Connector] = []
    shape = where.input
    for number, (factory, options) in enumerate(links):
        output = LANGUAGE if number == len(links) - 1 else None
        built.append(factory(options, ConnectorContext(shape, output, LANGUAGE, 2)))
        shape = built[-1].output_shape(shape)
    return built


def run(links: list[Connector], given: VisionFeatures) -> VisionFeatures:
    for link in links:
        given = link(given)
    return given


def randomised(module: nn.Module) -> nn.Module:
    """The same with every tensor at random, so that no 1 and no 0 hides a tensor that is not used."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-6 of the largest value: float32 sums in another order differ by that much."""
    assert (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


LLAMA = {"model_type": "llama", "hidden_size": LANGUAGE, "num_attention_heads": 2, "num_hidden_layers": 1}


# Projectors


def test_gemma3_is_average_pool_then_offset_norm_then_a_matrix():
    where = context(width=12, grid=(8, 8))
    config = Gemma3Config(
        vision_config={"hidden_size": 12, "image_size": 32, "patch_size": 4, "layer_norm_eps": 1e-6, "num_attention_heads": 2},
        text_config={"hidden_size": LANGUAGE, "num_attention_heads": 2, "num_hidden_layers": 1},
        mm_tokens_per_image=4,
    )
    theirs = randomised(Gemma3MultiModalProjector(config))
    links = chain(
        where,
        (average_pool, AveragePoolConfig(kernel=4)),
        (norm, NormConfig(kind="rms_offset", norm_epsilon=1e-6)),
        (linear, LinearConfig(bias=False)),
    )
    copy(links[1].module, theirs.mm_soft_emb_norm)
    links[2].module.weight.data = theirs.mm_input_projection_weight.data.T
    given = features(where)
    came = run(links, given)
    assert came.grid == (2, 2)
    assert_same(came.tokens, theirs(given.tokens))


def test_mistral3_is_norm_shuffle_merge_then_mlp():
    where = context(width=6, grid=(4, 8))
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", "hidden_size": 6, "patch_size": 14, "num_attention_heads": 1},
        text_config={"model_type": "mistral", "hidden_size": LANGUAGE, "num_attention_heads": 2, "rms_norm_eps": 1e-5},
        spatial_merge_size=2,
        multimodal_projector_bias=False,
    )
    theirs = randomised(Mistral3MultiModalProjector(config))
    links = chain(
        where,
        (norm, NormConfig(kind="rms", norm_epsilon=1e-5)),
        (pixel_shuffle, PixelShuffleConfig(order="c_dy_dx")),
        (linear, LinearConfig(bias=False, width=6)),
        (mlp, MlpConfig(bias=False)),
    )
    copy(links[0].module, theirs.norm)
    copy(links[2].module, theirs.patch_merger.merging_layer)
    copy(links[3].module[0], theirs.linear_1)
    copy(links[3].module[2], theirs.linear_2)
    given = features(where)
    expected = theirs(given.tokens.flatten(0, 1), [(4 * 14, 8 * 14)] * 2)
    assert_same(run(links, given).tokens.flatten(0, 1), expected)


def test_qwen2_vl_is_norm_shuffle_then_mlp():
    where = context(width=6, grid=(4, 4))
    theirs = randomised(PatchMerger(dim=LANGUAGE, context_dim=6, spatial_merge_size=2))
    links = chain(
        where,
        (norm, NormConfig(kind="layer", norm_epsilon=1e-6)),
        (pixel_shuffle, PixelShuffleConfig()),
        (mlp, MlpConfig(hidden_factor=1)),
    )
    copy(links[0].module, theirs.ln_q)
    copy(links[2].module, theirs.mlp)
    given = features(where)
    # Qwen2-VL's tower puts out the places window by window.
    windows = given.tokens.view(2, 2, 2, 2, 2, 6).transpose(2, 3).reshape(2, 16, 6)
    expected = theirs(windows).view(2, 4, LANGUAGE)
    assert_same(run(links, given).tokens, expected)


def test_llama4_is_shuffle_mlp_then_a_matrix():
    where = context(width=6, grid=(4, 4))
    config = Llama4VisionConfig(
        hidden_size=6, intermediate_size=24, pixel_shuffle_ratio=0.5, projector_input_dim=16, projector_output_dim=16
    )  # fmt: skip
    theirs, last = randomised(Llama4VisionPixelShuffleMLP(config)), nn.Linear(16, LANGUAGE, bias=False)
    links = chain(
        where,
        (pixel_shuffle, PixelShuffleConfig()),
        (mlp, MlpConfig(bias=False, width=16, output_activation=True)),
        (linear, LinearConfig(bias=False)),
    )
    copy(links[1].module[0], theirs.mlp.fc1)
    copy(links[1].module[2], theirs.mlp.fc2)
    copy(links[2].module, last)
    given = features(where)
    assert_same(run(links, given).tokens, last(theirs(given.tokens)))


@pytest.mark.parametrize("family", ["aya", "cohere"])
def test_aya_vision_is_shuffle_then_gated_mlp(family):
    where = context(width=6, grid=(4, 4))
    vision = {"model_type": "siglip_vision_model", "hidden_size": 6, "num_attention_heads": 2}
    text = {"model_type": "cohere2", "hidden_size": LANGUAGE, "num_attention_heads": 2, "num_hidden_layers": 1}
    kind = {"aya": AyaVisionConfig, "cohere": Cohere2VisionConfig}[family]
    config = kind(vision_config=vision, text_config=text, downsample_factor=2, alignment_intermediate_size=28)
    if family == "aya":
        theirs = randomised(AyaVisionMultiModalProjector(config))
        options = MlpConfig(gated=True, activation="silu", hidden_width=14, input_norm="layer", norm_epsilon=1e-6)
    else:
        theirs = randomised(Cohere2VisionMultiModalProjector(config))
        options = MlpConfig(gated=True, activation="silu", hidden_width=14)
    links = chain(where, (pixel_shuffle, PixelShuffleConfig()), (mlp, options))
    gated = links[1].module[-1]
    for name, rows in (("up", slice(None, 14)), ("gate", slice(14, None))):
        getattr(gated, name).weight.data = theirs.linear_1.weight.data[rows]
        getattr(gated, name).bias.data = theirs.linear_1.bias.data[rows]
    copy(gated.down, theirs.linear_2)
    if family == "aya":
        copy(links[1].module[0], theirs.layernorm)
    given = features(where)
    assert_same(run(links, given).tokens, theirs(given.tokens).flatten(1, 2))


def test_gated_mlp_without_bias_is_idefics2s():
    where = context(output=LANGUAGE)
    theirs = randomised(Idefics2MLP(12, 9, LANGUAGE, "silu"))
    ours = mlp(MlpConfig(gated=True, activation="silu", hidden_width=9, bias=False), where)
    for name in ("gate", "up", "down"):
        copy(getattr(ours.module[0], name), getattr(theirs, f"{name}_proj"))
    given = features(where)
    assert torch.equal(ours(given).tokens, theirs(given.tokens))


def test_vip_llava_is_mlp_with_input_norm_over_five_layers():
    where = context(width=5 * 4)
    config = VipLlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1},
        text_config=LLAMA,
        vision_feature_layers=[-2, -5, -8, -11, 6],
    )
    config.vision_feature_layer = [-2, -5, -8, -11, 6]
    theirs, ours = randomised(VipLlavaMultiModalProjector(config)), mlp(MlpConfig(input_norm="layer"), where)
    copy(ours.module[0], theirs.projector_layernorm)
    copy(ours.module[1], theirs.linear_1)
    copy(ours.module[3], theirs.linear_2)
    given = features(where)
    assert torch.equal(ours(given).tokens, theirs(given.tokens))


def test_perception_lm_is_mlp_then_pool():
    where = context(width=12, grid=(6, 6))
    config = PerceptionLMConfig(
        vision_config={"model_args": {"embed_dim": 12}}, text_config=LLAMA, projector_pooling_ratio=2
    )  # fmt: skip
    theirs = randomised(PerceptionLMMultiModalProjector(config))
    links = chain(where, (mlp, MlpConfig()), (adaptive_pool, AdaptivePoolConfig(grid=(3, 3))))
    copy(links[0].module[0], theirs.linear_1)
    copy(links[0].module[2], theirs.linear_2)
    given = features(where)
    assert_same(run(links, given).tokens, theirs(given.tokens))


def test_prismatic_is_an_mlp_whose_first_hidden_layer_is_four_times_the_input():
    ours = mlp(MlpConfig(depth=3, hidden_factor=4), context(width=12))
    shapes = [tuple(layer.weight.shape) for layer in ours.module if isinstance(layer, nn.Linear)]
    assert shapes == [(48, 12), (LANGUAGE, 48), (LANGUAGE, LANGUAGE)]
    assert [type(layer) for layer in ours.module] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


def test_nvila_is_padded_shuffle_then_two_mlps():
    """Layer by layer what VILA's `mlp_downsample_3x3_fix` holds."""
    where = context(width=4, grid=(8, 8))
    links = chain(
        where,
        (pixel_shuffle, PixelShuffleConfig(factor=3, pad=True)),
        (mlp, MlpConfig(depth=1, width=12, input_norm="layer", output_activation=True)),
        (mlp, MlpConfig(input_norm="layer")),
    )
    layers = [*links[1].module, *links[2].module]
    assert [type(layer) for layer in layers] == [
        nn.LayerNorm, nn.Linear, nn.GELU, nn.LayerNorm, nn.Linear, nn.GELU, nn.Linear
    ]  # fmt: skip
    shapes = [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear | nn.LayerNorm)]
    assert shapes == [(36,), (12, 36), (12,), (LANGUAGE, 12), (LANGUAGE, LANGUAGE)]
    assert run(links, features(where)).shape == FeatureShape(LANGUAGE, 9, (3, 3))


def test_identity_passes_everything_on():
    where = context(prefix=1)
    given = features(where)
    came = identity(IdentityConfig(), where)(given)
    assert torch.equal(came.tokens, given.tokens)
    assert came.shape == where.input
    with pytest.raises(AssemblyError, match=r"`connectors/identity` does not fit.*\n.*puts out width 12 where 20 is needed"):
        identity(IdentityConfig(), context(output=LANGUAGE))


@pytest.mark.parametrize("kind", ["layer", "rms", "rms_offset"])
def test_norm_is_what_the_formula_says(kind):
    where = context(width=12)
    ours = randomised(norm(NormConfig(kind=kind), where)).double()
    tokens = features(where).tokens.double()
    weight = ours.module.weight + (1 if kind == "rms_offset" else 0)
    if kind == "layer":
        tokens = tokens - tokens.mean(-1, keepdim=True)
    expected = tokens / (tokens.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    if kind == "layer":
        expected = expected + ours.module.bias
    came = ours(VisionFeatures(features(where).tokens.double(), (4, 6)))
    torch.testing.assert_close(came.tokens, expected, rtol=1e-12, atol=1e-12)


# Places


def places(rows: int, columns: int) -> torch.Tensor:
    """A coordinate image: the features of a place are its row and its column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([row, column], dim=-1).double().view(1, -1, 2)


def test_average_pool_gives_the_middle_of_each_window():
    where = context(width=2, grid=(4, 6))
    came = average_pool(AveragePoolConfig(kernel=2), where)(VisionFeatures(places(4, 6), (4, 6)))
    assert came.grid == (2, 3)
    assert came.tokens[0].tolist() == [[2 * row + 0.5, 2 * column + 0.5] for row in range(2) for column in range(3)]


def test_adaptive_pool_gives_the_middle_of_each_part():
    where = context(width=2, grid=(4, 6))
    pool = adaptive_pool(AdaptivePoolConfig(grid=(2, 3)), where)
    came = pool(VisionFeatures(places(4, 6), (4, 6)))
    assert came.tokens[0].tolist() == [[2 * row + 0.5, 2 * column + 0.5] for row in range(2) for column in range(3)]
    other = pool(VisionFeatures(places(3, 3), (3, 3)))  # parts of 3 places in 2: the middle one is in both
    assert other.grid == pool.output_grid((3, 3)) == (2, 3)
    assert other.tokens[0].tolist() == [[row + 0.5, column] for row in range(2) for column in range(3)]


def test_interpolation_reads_between_the_places():
    where = context(width=2, grid=(4, 6))
    half = interpolate(InterpolateConfig(factor=2), where)(VisionFeatures(places(4, 6), (4, 6)))
    assert half.tokens[0].tolist() == [[2 * row + 0.5, 2 * column + 0.5] for row in range(2) for column in range(3)]
    near = interpolate(InterpolateConfig(grid=(2, 3), mode="nearest"), where)(VisionFeatures(places(4, 6), (4, 6)))
    assert near.tokens[0].tolist() == [[2 * row, 2 * column] for row in range(2) for column in range(3)]
    odd = interpolate(InterpolateConfig(factor=2), context(width=2, grid=(27, 27)))
    assert odd.output_grid((27, 27)) == (14, 14)  # 196 tokens for each frame of a video (LLaVA-OneVision)
    assert odd(VisionFeatures(places(27, 27), (27, 27))).shape == FeatureShape(2, 196, (14, 14))


def test_padded_shuffle_fills_up_at_the_bottom_and_at_the_right():
    where = context(width=2, grid=(3, 5))
    given = VisionFeatures(places(3, 5) + 1, (3, 5))  # no place is 0, as padding is
    came = pixel_shuffle(PixelShuffleConfig(pad=True), where)(given)
    assert came.grid == (2, 3)
    for row in range(2):
        for column in range(3):
            window = [(2 * row + dy, 2 * column + dx) for dy in range(2) for dx in range(2)]
            expected = [value for y, x in window for value in ((y + 1, x + 1) if y < 3 and x < 5 else (0, 0))]
            assert came.tokens[0, 3 * row + column].tolist() == expected


def test_shuffle_of_neighbours_in_a_row_is_minigpt_v2s():
    where = context(width=2, grid=(2, 8))
    came = pixel_shuffle(PixelShuffleConfig(factor=(1, 4)), where)(VisionFeatures(places(2, 8), (2, 8)))
    assert came.grid == (2, 2)
    assert torch.equal(came.tokens, places(2, 8).view(1, 4, 8))


# Refusals


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (average_pool, AveragePoolConfig(kernel=4), r"`kernel` \(=4\) must divide both sides of the grid \(4x6\)"),
        (pixel_shuffle, PixelShuffleConfig(factor=(1, 4)), r"`factor` \(=1x4\) must divide both sides of the grid \(4x6\)"),
    ],
)
def test_a_grid_that_leaves_a_rest_is_refused(factory, options, message):
    with pytest.raises(AssemblyError, match=message):
        factory(options, context(grid=(4, 6)))


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (average_pool, AveragePoolConfig()),
        (adaptive_pool, AdaptivePoolConfig(grid=(2, 2))),
        (interpolate, InterpolateConfig(factor=2)),
        (pixel_shuffle, PixelShuffleConfig(pad=True)),
    ],
)
def test_prefix_and_missing_grid_are_refused(factory, options):
    with pytest.raises(AssemblyError, match="it takes 0 prefix tokens and 1 come in"):
        factory(options, context(prefix=1))
    with pytest.raises(AssemblyError, match="these tokens have no grid: put it before the connector that drops the grid"):
        factory(options, context(grid=None))


@pytest.mark.parametrize(("factory", "options"), [(linear, LinearConfig(width=7)), (mlp, MlpConfig(width=7))])
def test_a_width_of_its_own_is_for_the_middle_of_a_chain(factory, options):
    assert factory(options, context()).output_width == 7
    with pytest.raises(AssemblyError, match=r"`width` \(=7\) is not the width 20 that is needed: leave `width` out"):
        factory(options, context(output=LANGUAGE))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (InterpolateConfig, {}, "exactly one of `grid` and `factor` says what comes out; neither is given"),
        (InterpolateConfig, {"grid": [1, 2], "factor": 2}, r"both are given \(grid=\(1, 2\), factor=2\)"),
        (PixelShuffleConfig, {"factor": [1, 1]}, r"`factor` \(=\[1, 1\]\) folds nothing"),
        (PixelShuffleConfig, {"factor": 1}, "greater than or equal to 2"),
        (AveragePoolConfig, {"kernel": 1}, "greater than or equal to 2"),
        (AdaptivePoolConfig, {}, "Field required"),
    ],
)
def test_options_that_say_nothing_are_refused(kind, options, message):
    with pytest.raises(ValidationError, match=message):
        kind(**options)
