"""The connectors that make sequence tokens, against transformers' own modules and against loops written from the formula."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import Idefics3Config, IdeficsConfig, InternVLConfig, LlavaConfig, Mistral3Config
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.mistral3.modeling_mistral3 import Mistral3PatchMerger

from vlmzoo_connectors.config import LinearConfig, MlpConfig, PixelShuffleConfig, ResamplerConfig
from vlmzoo_connectors.linear import linear
from vlmzoo_connectors.mlp import mlp
from vlmzoo_connectors.pixel_shuffle import pixel_shuffle
from vlmzoo_connectors.resampler import Resampler
from vlmzoo_registry import AssemblyError, ConnectorContext, FeatureShape, VisionFeatures


def context(width=12, grid=(4, 6), prefix=0, output=None, language=20) -> ConnectorContext:
    count = prefix + (grid[0] * grid[1] if grid else 7)
    return ConnectorContext(FeatureShape(width, count, grid, prefix), output, language, 2)


def features(where: ConnectorContext, batch=2, dtype=torch.float32) -> VisionFeatures:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(batch, where.input.count, where.input.width, generator=generator).to(dtype)
    return VisionFeatures(tokens, where.input.grid, where.input.prefix)


# Linear and MLP


@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_one_matrix_and_keeps_places_and_prefix(bias):
    where = context(prefix=1)
    connector, given = linear(LinearConfig(bias=bias), where), features(where)
    came = connector(given)
    assert torch.equal(came.tokens, nn.functional.linear(given.tokens, *connector.parameters()))
    assert len(list(connector.parameters())) == 1 + bias
    assert came.shape == connector.output_shape(where.input) == FeatureShape(20, 25, (4, 6), 1)


def test_linear_prefers_the_width_that_is_asked_for():
    assert linear(LinearConfig(), context(output=7)).output_width == 7


def test_a_projection_to_an_unknown_width_is_refused_with_the_numbers():
    for build in (lambda where: linear(LinearConfig(), where), lambda where: mlp(MlpConfig(), where)):
        with pytest.raises(AssemblyError, match=r"width 12 .* not known: `output_width` \(=None\), `language_width` \(=0\)"):
            build(context(language=0))


def test_default_mlp_is_llavas_projector():
    where = context(width=12, language=20)
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 12, "num_hidden_layers": 1},
        text_config={"model_type": "llama", "hidden_size": 20, "num_attention_heads": 2, "num_hidden_layers": 1},
    )
    theirs, ours = LlavaMultiModalProjector(config), mlp(MlpConfig(), where)
    copy(ours.module[0], theirs.linear_1)
    copy(ours.module[2], theirs.linear_2)
    given = features(where)
    assert torch.equal(ours(given).tokens, theirs(given.tokens))


def test_mlp_with_input_norm_is_internvls_projector():
    where = context(width=32, language=20)
    config = InternVLConfig(
        vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        text_config={"model_type": "qwen2", "hidden_size": 20, "num_attention_heads": 2, "num_hidden_layers": 1},
    )
    theirs, ours = InternVLMultiModalProjector(config), mlp(MlpConfig(input_norm="layer"), where)
    nn.init.normal_(theirs.layer_norm.weight)
    copy(ours.module[0], theirs.layer_norm)
    copy(ours.module[1], theirs.linear_1)
    copy(ours.module[3], theirs.linear_2)
    given = features(where)
    assert torch.equal(ours(given).tokens, theirs(given.tokens))


def test_plain_input_norm_standardises_each_token_and_learns_nothing():
    where = context(width=12, language=20)
    connector, given = mlp(MlpConfig(depth=1, input_norm="plain"), where), features(where)
    assert [tuple(parameter.shape) for parameter in connector.parameters()] == [(20, 12), (20,)]
    tokens = given.tokens.double()
    centred = tokens - tokens.mean(-1, keepdim=True)
    standard = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    weight, bias = (parameter.double() for parameter in connector.parameters())
    assert torch.allclose(connector(given).tokens.double(), standard @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        ("gelu_tanh", lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("silu", lambda x: x / (1 + torch.exp(-x))),
        ("relu", lambda x: x * (x > 0)),
    ],
)
def test_mlp_depth_hidden_width_and_activation(name, function):
    where = context()
    connector = mlp(MlpConfig(depth=3, hidden_width=9, activation=name, bias=False), where).double()
    given = features(where, dtype=torch.float64)
    first, second, third = connector.parameters()
    assert [tuple(matrix.shape) for matrix in (first, second, third)] == [(9, 12), (9, 9), (20, 9)]
    expected = function(function(given.tokens @ first.T) @ second.T) @ third.T
    torch.testing.assert_close(connector(given).tokens, expected, rtol=1e-12, atol=1e-12)


def test_scaled_output_norm_starts_at_the_scale():
    where = context(language=512)
    connector = mlp(MlpConfig(output_norm="layer_scaled", output_scale=0.13), where)
    assert connector(features(where)).tokens.std().item() == pytest.approx(0.13, rel=0.01)
    plain = mlp(MlpConfig(output_norm="layer"), where)
    assert plain(features(where)).tokens.std().item() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_norm": "layer_scaled"}, "`output_norm: layer_scaled` needs `output_scale`"),
        ({"output_scale": 0.5}, r"`output_scale` \(=0.5\) is read with `output_norm: layer_scaled` only, not with .*none"),
        ({"depth": 1, "hidden_width": 8}, r"`hidden_width` \(=8\) needs a `depth` of at least 2 \(is 1\)"),
        ({"depth": 1, "hidden_factor": 4}, r"`hidden_factor` \(=4.0\) needs a `depth` of at least 2 \(is 1\)"),
        ({"hidden_width": 8, "hidden_factor": 4}, r"`hidden_width` \(=8\) and `hidden_factor` \(=4.0\) both say .* give one"),
        ({"gated": True, "depth": 3}, r"`gated` has one hidden layer, which is `depth` 2 \(is 3\)"),
        ({"dept": 1}, "Extra inputs are not permitted"),
    ],
)
def test_mlp_options_that_nothing_reads_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        MlpConfig(**options)


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


# Pixel shuffle


def test_pixel_shuffle_puts_every_place_where_it_says():
    where = context(width=2, grid=(4, 6))
    place = torch.arange(24.0).view(4, 6)
    tokens = torch.stack([100 * place, 100 * place + 1], dim=-1).view(1, 24, 2)  # channel c of place p is 100 p + c
    given = VisionFeatures(tokens, (4, 6))

    spatial = pixel_shuffle(PixelShuffleConfig(), where)(given)
    assert spatial.grid == (2, 3)
    assert spatial.tokens[0, 4].tolist() == [1400, 1401, 1500, 1501, 2000, 2001, 2100, 2101]  # rows 2-3, columns 2-3
    channel = pixel_shuffle(PixelShuffleConfig(order="c_dy_dx"), where)(given)
    assert channel.tokens[0, 4].tolist() == [1400, 1500, 2000, 2100, 1401, 1501, 2001, 2101]

    for order, came in (("dy_dx_c", spatial), ("c_dy_dx", channel)):
        for row in range(2):
            for column in range(3):
                loop = [
                    (c, dy, dx, 100 * place[2 * row + dy, 2 * column + dx].item() + c)
                    for c in range(2)
                    for dy in range(2)
                    for dx in range(2)
                ]
                key = (lambda entry: entry[:3]) if order == "c_dy_dx" else (lambda entry: (entry[1], entry[2], entry[0]))
                assert came.tokens[0, 3 * row + column].tolist() == [entry[3] for entry in sorted(loop, key=key)]


def test_pixel_shuffle_is_that_of_idefics3():
    where = context(width=5, grid=(6, 6))
    config = Idefics3Config(
        vision_config={"hidden_size": 5},
        text_config={"model_type": "llama", "hidden_size": 4, "num_attention_heads": 1},
        scale_factor=3,
    )
    given = features(where)
    theirs = Idefics3Connector(config).pixel_shuffle(given.tokens, 3)
    assert torch.equal(pixel_shuffle(PixelShuffleConfig(factor=3), where)(given).tokens, theirs)


def test_pixel_shuffle_with_channels_first_is_mistral3s_merger():
    where = context(width=6, grid=(4, 8))
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", "hidden_size": 6, "patch_size": 14, "num_attention_heads": 1},
        text_config={"model_type": "mistral", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1},
        spatial_merge_size=2,
    )
    theirs, given = Mistral3PatchMerger(config), features(where)
    expected = theirs(given.tokens.flatten(0, 1), [(4 * 14, 8 * 14)] * 2)
    ours = pixel_shuffle(PixelShuffleConfig(order="c_dy_dx"), where)(given)
    torch.testing.assert_close(theirs.merging_layer(ours.tokens).flatten(0, 1), expected, rtol=1e-6, atol=1e-6)


def test_pixel_shuffle_says_every_misfit_at_once_with_the_numbers():
    with pytest.raises(AssemblyError) as caught:
        pixel_shuffle(PixelShuffleConfig(factor=4), context(width=12, grid=(4, 6), prefix=5, output=20))
    text = str(caught.value)
    assert "`connectors/pixel-shuffle` does not fit to 29 tokens of width 12 (grid 4x6, prefix 5)" in text
    assert "`factor` (=4) must divide both sides of the grid (4x6)" in text
    assert "it takes 0 prefix tokens and 5 come in" in text
    assert "set `prefix: drop`" in text
    assert "it puts out width 192 where 20 is needed" in text
    assert len(caught.value.reasons) == 3


def test_pixel_shuffle_refuses_tokens_without_places():
    with pytest.raises(AssemblyError, match="these tokens have no grid: put it before the connector that drops the grid"):
        pixel_shuffle(PixelShuffleConfig(), context(grid=None))


def test_pixel_shuffle_refuses_what_it_was_not_built_for_when_it_runs():
    connector = pixel_shuffle(PixelShuffleConfig(), context(grid=(4, 6)))
    with pytest.raises(AssemblyError, match=r"`factor` \(=2\) must divide both sides of the grid \(3x6\)"):
        connector.output_grid((3, 6))
    with pytest.raises(AssemblyError, match="it takes 0 prefix tokens and 1 come in"):
        connector(VisionFeatures(torch.zeros(1, 25, 12), (4, 6), prefix=1))


# Resampler


@pytest.mark.parametrize("query_key_norm", [True, False])
def test_resampler_with_relu_is_that_of_idefics(query_key_norm):
    where = context(width=16, grid=(3, 3), prefix=1)
    config = IdeficsConfig(vision_config={"embed_dim": 16}, perceiver_config={"qk_layer_norms_perceiver": query_key_norm})
    theirs = IdeficsPerceiverResampler(config, 16, 2, 3, 8, 5)
    options = ResamplerConfig(queries=5, depth=2, heads=3, head_width=8, activation="relu", query_key_norm=query_key_norm)
    ours = Resampler(options, where)
    ours.latents.data.copy_(theirs.latents.data)
    copy(ours.norm, theirs.layer_norm)
    for layer, (attention, feedforward) in zip(ours.layers, theirs.blocks, strict=True):
        copy(layer.token_norm, randomised(attention.context_layer_norm))
        copy(layer.latent_norm, randomised(attention.latents_layer_norm))
        copy(layer.query, attention.q_proj)
        copy(layer.key, attention.k_proj)
        copy(layer.value, attention.v_proj)
        copy(layer.output, attention.output_proj)
        if query_key_norm:
            copy(layer.query_norm, randomised(attention.q_layer_norm))
            copy(layer.key_norm, randomised(attention.k_layer_norm))
        copy(layer.feedforward[0], randomised(feedforward.ln))
        copy(layer.feedforward[1], feedforward.fc)
        copy(layer.feedforward[3], feedforward.c_proj)
    given = features(where)
    torch.testing.assert_close(ours(given).tokens, theirs(given.tokens), rtol=1e-6, atol=1e-6)


def test_resampler_is_what_the_formula_says():
    where = context(width=6, grid=(2, 3), output=4)
    ours = Resampler(ResamplerConfig(queries=3, depth=2, heads=2, head_width=5), where).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    given = features(where, dtype=torch.float64)
    expected = torch.stack([slow_resampler(ours, image) for image in given.tokens])
    torch.testing.assert_close(ours(given).tokens, expected, rtol=1e-10, atol=1e-10)


def test_resampler_declares_what_comes_out():
    where = context(width=6, grid=(2, 3), prefix=2, output=4)
    ours = Resampler(ResamplerConfig(queries=3, depth=1, heads=1, head_width=4), where)
    assert ours(features(where)).shape == ours.output_shape(where.input) == FeatureShape(4, 3, None)
    for asked in (None, 6):
        same = Resampler(ResamplerConfig(queries=3, depth=1), context(width=6, output=asked))
        assert same.output_width == 6
        assert isinstance(same.projection, nn.Identity)


def randomised(norm: nn.LayerNorm) -> nn.LayerNorm:
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def slow_norm(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + norm.eps) * norm.weight + norm.bias


def slow_resampler(module: Resampler, image: torch.Tensor) -> torch.Tensor:
    latents = list(module.latents)
    for layer in module.layers:
        normed = [slow_norm(latent, layer.latent_norm) for latent in latents]
        context = [slow_norm(token, layer.token_norm) for token in image] + normed
        gathered = []
        for latent in normed:
            heads = []
            for head in range(layer.heads):
                rows = slice(5 * head, 5 * head + 5)
                query = layer.query.weight[rows] @ latent
                scores = torch.stack([query @ (layer.key.weight[rows] @ token) / math.sqrt(5) for token in context])
                shares = torch.exp(scores) / torch.exp(scores).sum()
                heads.append(
                    sum(share * (layer.value.weight[rows] @ token) for share, token in zip(shares, context, strict=True))
                )
            gathered.append(layer.output.weight @ torch.cat(heads))
        latents = [latent + more for latent, more in zip(latents, gathered, strict=True)]
        norm, first, _, second = layer.feedforward
        for index, latent in enumerate(latents):
            inner = first.weight @ slow_norm(latent, norm)
            latents[index] = latent + second.weight @ (inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
    return torch.stack([module.projection.weight @ slow_norm(latent, module.norm) for latent in latents])


@pytest.mark.parametrize("build", [linear, mlp, pixel_shuffle, Resampler])
def test_builds_on_meta_and_every_parameter_gets_a_gradient(build):
    config = {linear: LinearConfig, mlp: MlpConfig, pixel_shuffle: PixelShuffleConfig, Resampler: ResamplerConfig}[build]()
    where = context()
    with torch.device("meta"):
        described = build(config, where)
    connector = build(config, where)
    assert {name: tensor.shape for name, tensor in described.state_dict().items()} == {
        name: tensor.shape for name, tensor in connector.state_dict().items()
    }
    connector(features(where)).tokens.square().sum().backward() if list(connector.parameters()) else None
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in connector.parameters())
