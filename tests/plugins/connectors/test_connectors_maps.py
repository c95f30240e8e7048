"""Connectors that attend or convolve on the map of tokens, against the blocks that the papers' own codes are built of."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from timm.layers import LayerNorm2d
from timm.layers.norm_act import LayerNormAct2d
from timm.models.regnet import RegStage
from torch import nn
from torch.nn import functional
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig
from torchvision.ops.misc import SqueezeExcitation

from vlmzoo_connectors.attention_pool import attention_pool
from vlmzoo_connectors.c_abstractor import c_abstractor
from vlmzoo_connectors.config import AttentionPoolConfig, CAbstractorConfig, LdpConfig, LdpV2Config, MlpConfig
from vlmzoo_connectors.ldp import ldp
from vlmzoo_connectors.ldp_v2 import ldp_v2
from vlmzoo_connectors.mlp import mlp
from vlmzoo_registry import AssemblyError, ConnectorContext, FeatureShape, VisionFeatures

LANGUAGE = 20


def context(width=12, grid=(4, 6), prefix=0, output=None, language=LANGUAGE) -> ConnectorContext:
    count = prefix + (grid[0] * grid[1] if grid else 7)
    return ConnectorContext(FeatureShape(width, count, grid, prefix), output, language, 2)


def features(where: ConnectorContext, dtype=torch.float64) -> VisionFeatures:
    tokens = torch.randn(2, where.input.count, where.input.width, generator=torch.Generator().manual_seed(0))
    return VisionFeatures(tokens.to(dtype), where.input.grid, where.input.prefix)


def on_map(features: VisionFeatures) -> torch.Tensor:
    rows, columns = features.grid
    return features.tokens.transpose(1, 2).reshape(len(features.tokens), -1, rows, columns)


def off_map(places: torch.Tensor) -> torch.Tensor:
    return places.flatten(2).transpose(1, 2)


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def copy_in_order(theirs: nn.Module, ours: nn.Module) -> None:
    """Both hold the same tensors in the same order, 1x1 convolutions and matrices being one."""
    mine, other = list(ours.parameters()), list(theirs.parameters())
    assert [tensor.squeeze().shape for tensor in mine] == [tensor.squeeze().shape for tensor in other]
    for target, source in zip(other, mine, strict=True):
        target.data = source.data.view(target.shape).clone()


# Attention pooling


@pytest.mark.parametrize(("grid", "key_value_heads"), [((4, 6), 4), ((5, 7), 2)])
def test_attention_pool_then_gated_mlp_is_molmo2s_adapter(grid, key_value_heads):
    molmo2 = pytest.importorskip("transformers.models.molmo2", reason="this transformers has no Molmo 2")
    where = context(width=2 * 12, grid=grid)
    config = molmo2.configuration_molmo2.Molmo2AdapterConfig(
        hidden_size=12, vision_feature_layer=[-3, -9], num_attention_heads=4, num_key_value_heads=key_value_heads, head_dim=3,
        intermediate_size=14, text_hidden_size=LANGUAGE, attention_dropout=0.0,
    )  # fmt: skip
    theirs = randomised(molmo2.modeling_molmo2.Molmo2Adapter(config)).double().eval()
    options = AttentionPoolConfig(heads=4, head_width=3, key_value_heads=key_value_heads, pad=True)
    pool = attention_pool(options, where).double()
    last = mlp(
        MlpConfig(gated=True, hidden_width=14, activation="silu", bias=False), context(width=12, output=LANGUAGE)
    ).double()
    assert pool.output_width == 12
    for name, other in {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}.items():
        getattr(pool.module, name).load_state_dict(getattr(theirs.image_pooling_2d, other).state_dict())
    for name in ("gate", "up", "down"):
        getattr(last.module[0], name).load_state_dict(getattr(theirs.image_projector, f"{name}_proj").state_dict())
    given = features(where)
    rows, columns = grid
    windows = [
        [
            (y * columns + x if y < rows and x < columns else -1)
            for y in range(2 * row, 2 * row + 2)
            for x in range(2 * column, 2 * column + 2)
        ]
        for row in range(-(-rows // 2))
        for column in range(-(-columns // 2))
    ]
    expected = torch.stack([theirs(image[None], torch.tensor(windows))[0] for image in given.tokens])
    came = last(pool(given))
    assert came.grid == (-(-rows // 2), -(-columns // 2))
    torch.testing.assert_close(came.tokens, expected, rtol=1e-9, atol=1e-9)


def test_attention_pool_refuses_a_rest_unless_it_pads_and_finds_its_width():
    options = {"heads": 2, "head_width": 5}
    with pytest.raises(AssemblyError, match=r"`factor` \(=2\) must divide both sides of the grid \(3x5\)"):
        attention_pool(AttentionPoolConfig(**options), context(grid=(3, 5)))
    assert attention_pool(AttentionPoolConfig(**options), context()).output_width == 10
    assert attention_pool(AttentionPoolConfig(**options, width=7), context()).output_width == 7
    assert attention_pool(AttentionPoolConfig(**options), context(output=LANGUAGE)).output_width == LANGUAGE
    with pytest.raises(ValidationError, match=r"`heads` \(=2\) must be divisible by `key_value_heads` \(=3\)"):
        AttentionPoolConfig(**options, key_value_heads=3)


def test_attention_pool_with_one_head_and_no_mixing_is_the_weighted_mean_of_its_window():
    where = context(width=2, grid=(4, 4))
    pool = attention_pool(AttentionPoolConfig(heads=1, head_width=2, bias=False, width=2), where).double()
    for matrix in (pool.module.value, pool.module.output):
        matrix.weight.data = torch.eye(2, dtype=torch.float64)
    pool.module.query.weight.data.zero_()  # every neighbour weighs the same
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    places = torch.stack([row, column], dim=-1).double().view(1, 16, 2)
    assert pool(VisionFeatures(places, (4, 4))).tokens[0].tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]


# C-Abstractor


@pytest.mark.parametrize(("width", "hidden"), [(12, 16), (16, 16)])
def test_c_abstractor_is_honeybees_over_timms_blocks(width, hidden):
    where = context(width=width, grid=(5, 4))
    options = CAbstractorConfig(grid=(2, 2), depth=2, hidden_width=hidden)
    ours = randomised(c_abstractor(options, where)).double()
    stage = partial(RegStage, 2, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d)
    theirs = nn.ModuleDict(
        {
            "before": stage(width, hidden),
            "after": stage(hidden, hidden),
            "readout": nn.Sequential(nn.Linear(hidden, LANGUAGE), nn.SiLU(), nn.Linear(LANGUAGE, LANGUAGE)),
        }
    ).double()
    for name, part in (("before", "before"), ("after", "after"), ("readout", "perceptron")):
        copy_in_order(theirs[name], getattr(ours.module, part))
    given = features(where)
    small = VisionFeatures(1e-2 * given.tokens, given.grid)  # small enough that a norm's epsilon shows
    for each in (given, small):
        places = theirs["before"](on_map(each) + ours.module.positions)
        places = theirs["after"](functional.adaptive_avg_pool2d(places, (2, 2)))
        came = ours(each)
        torch.testing.assert_close(came.tokens, theirs["readout"](off_map(places)), rtol=1e-9, atol=1e-9)
        assert came.shape == ours.output_shape(where.input) == FeatureShape(LANGUAGE, 4, (2, 2))


def test_c_abstractor_with_positions_takes_the_grid_it_was_built_for():
    options = {"grid": (2, 2), "depth": 1, "hidden_width": 8}
    ours = c_abstractor(CAbstractorConfig(**options), context(grid=(5, 5)))
    with pytest.raises(AssemblyError, match="its positions are those of the grid 5x5, and 4x6 comes in"):
        ours.output_grid((4, 6))
    without = c_abstractor(CAbstractorConfig(**options, positions=False), context(grid=(5, 5)))
    assert without.output_grid((4, 6)) == (2, 2)
    assert without(features(context(grid=(4, 6)), torch.float32)).shape == FeatureShape(LANGUAGE, 4, (2, 2))
    with pytest.raises(AssemblyError, match="these tokens have no grid"):
        c_abstractor(CAbstractorConfig(**options), context(grid=None))


# MobileVLM


@pytest.mark.parametrize(("grid", "language"), [((4, 4), 24), ((5, 3), 40), ((6, 6), 48)])
def test_ldp_is_mobilevlms_over_torchvisions_blocks(grid, language):
    where = context(grid=grid, language=language)
    ours = randomised(ldp(LdpConfig(), where)).double()
    norm = partial(LayerNormAct2d, act_layer=None)
    squeeze = partial(SqueezeExcitation, scale_activation=nn.Hardsigmoid)
    theirs = nn.Sequential(
        nn.Sequential(nn.Linear(12, language), nn.GELU(), nn.Linear(language, language)),
        *(
            InvertedResidual(InvertedResidualConfig(language, 3, language, language, True, "HS", stride, 1, 1), norm, squeeze)
            for stride in (1, 2)
        ),
    ).double()
    copy_in_order(theirs, ours)
    given = features(where)
    places = theirs[2](theirs[1](on_map(VisionFeatures(theirs[0](given.tokens), grid))))
    came = ours(given)
    torch.testing.assert_close(came.tokens, off_map(places), rtol=1e-9, atol=1e-9)
    assert came.grid == ours.output_grid(grid) == tuple(places.shape[2:])


def test_ldp_v2_is_what_the_formula_says():
    where = context(grid=(4, 6))
    ours = randomised(ldp_v2(LdpV2Config(grid=(2, 3)), where)).double()
    given = features(where)
    first, _, second = ours.module[0].layers
    hidden = given.tokens @ first.weight.T + first.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    tokens = (hidden @ second.weight.T + second.bias).view(2, 2, 2, 3, 2, LANGUAGE).mean((2, 4))  # B 2 3 d
    padded = torch.zeros(2, 4, 5, LANGUAGE, dtype=torch.float64)
    padded[:, 1:3, 1:4] = tokens
    convolution = ours.module[2].convolution
    expected = tokens + convolution.bias
    for dy in range(3):
        for dx in range(3):
            expected = expected + padded[:, dy : dy + 2, dx : dx + 3] * convolution.weight[:, 0, dy, dx]
    torch.testing.assert_close(ours(given).tokens, expected.flatten(1, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("factory", "options", "count"),
    [
        (ldp, LdpConfig(), 144),
        (ldp_v2, LdpV2Config(), 144),
        (c_abstractor, CAbstractorConfig(), 144),
        (attention_pool, AttentionPoolConfig(), 144),
    ],
)
def test_published_counts_of_tokens(factory, options, count):
    """CLIP ViT-L at 336 has 24 x 24 patches; MobileVLM, Honeybee and Molmo make 144 tokens of them."""
    with torch.device("meta"):
        built = factory(options, context(width=1024, grid=(24, 24), language=64))
    assert built.token_count((24, 24), 576) == count


@pytest.mark.parametrize(("factory", "options", "millions"), [(ldp, LdpConfig(), 18.94), (ldp_v2, LdpV2Config(), 6.32)])
def test_published_counts_of_parameters(factory, options, millions):
    """MobileVLM V2 (arXiv:2402.03766) compares both projectors, between CLIP ViT-L and MobileLLaMA-1.4B."""
    with torch.device("meta"):
        built = factory(options, context(width=1024, grid=(24, 24), language=2048))
    assert round(sum(parameter.numel() for parameter in built.parameters()) / 1e6, 2) == millions
