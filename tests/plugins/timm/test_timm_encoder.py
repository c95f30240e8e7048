"""timm models behind the contract, against timm's `forward_intermediates`, `get_intermediate_layers`, `forward_features`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from packaging.version import Version
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config, resolve_model_data_config

from vlmzoo_registry import AssemblyError, CheckpointError, ConfigError, FeatureShape, VisionEncoder
from vlmzoo_timm.architecture import architecture as described
from vlmzoo_timm.config import TimmConfig
from vlmzoo_timm.encoder import TimmEncoder
from vlmzoo_timm.plugin import vlmzoo_components
from vlmzoo_timm.transform import image_transform

SMALL = {"depth": 3, "embed_dim": 32, "num_heads": 2}
MODELS = {
    # name: architecture, arguments, tokens of layer -1 with the prefix kept
    "vit": ("test_vit", {"img_size": 64}, FeatureShape(64, 17, (4, 4), 1)),
    "registers": ("vit_small_patch14_reg4_dinov2", {**SMALL, "img_size": 70}, FeatureShape(32, 30, (5, 5), 5)),
    "siglip": ("vit_base_patch16_siglip_224", {**SMALL, "img_size": 64}, FeatureShape(32, 16, (4, 4), 0)),
    "distilled": ("deit_tiny_distilled_patch16_224", {**SMALL, "img_size": 64}, FeatureShape(32, 18, (4, 4), 2)),
    "eva02": ("eva02_tiny_patch14_224", {**SMALL, "img_size": 56}, FeatureShape(32, 17, (4, 4), 1)),
    "beit": ("beit_base_patch16_224", {**SMALL, "img_size": 64}, FeatureShape(32, 17, (4, 4), 1)),
    "convnext": ("test_convnext", {}, FeatureShape(64, 25, (5, 5), 0)),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "img_size": 112},
        FeatureShape(64, 16, (4, 4), 0),
    ),
    "efficientnet": ("tf_efficientnet_lite0", {}, FeatureShape(320, 49, (7, 7), 0)),
}
SINCE_1_0_31 = pytest.mark.skipif(
    Version(timm.__version__) < Version("1.0.31"), reason="an earlier timm has no such model, or cannot do this with it"
)
TRANSFORMERS = ("vit", "registers", "siglip", "distilled", "eva02", "beit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, tuple[torch.nn.Module, Path]]:
    """Of each model, timm's own with every tensor at random, and a folder with its weights as timm would save it."""
    made = {}
    for name, (architecture, arguments, _) in MODELS.items():
        torch.manual_seed(0)
        reference = timm.create_model(architecture, **arguments).eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        record = dict(reference.pretrained_cfg)
        if "img_size" in arguments:
            record["input_size"] = (3, arguments["img_size"], arguments["img_size"])
        folder = tmp_path_factory.mktemp(name)
        saved = {"architecture": architecture, "num_classes": 1000, "model_args": arguments, "pretrained_cfg": record}
        (folder / "config.json").write_text(json.dumps(saved))
        save_file(reference.state_dict(), folder / "model.safetensors")
        made[name] = reference, folder
    return made


def encoder(folder, **options) -> TimmEncoder:
    return TimmEncoder(TimmConfig(model=str(folder), **options)).eval()


def pixels(built: TimmEncoder) -> torch.Tensor:
    return torch.randn(2, 3, built.transform.height, built.transform.width, generator=torch.Generator().manual_seed(0))


def rows(output) -> torch.Tensor:
    """timm's map, or map and prefix tokens, as rows: prefix first, then row by row, written as loops."""
    image, prefix = output if isinstance(output, tuple) else (output, None)
    places = [image[:, :, row, column] for row in range(image.shape[2]) for column in range(image.shape[3])]
    leading = [] if prefix is None else list(prefix.unbind(1))
    return torch.stack([*leading, *places], dim=1)


# Parity with timm


@pytest.mark.parametrize("name", MODELS)
def test_declared_shape_is_what_comes_out(folders, name):
    shape = MODELS[name][2]
    built = encoder(folders[name][1], prefix="keep" if shape.prefix else None)
    assert isinstance(built, VisionEncoder)
    assert built.output_shape == shape
    with torch.no_grad():
        assert built(pixels(built)).shape == shape


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_timms_forward_intermediates(folders, name):
    reference, folder = folders[name]
    depth = len(reference.feature_info)
    for layer in (-1, -2, 0):
        built = encoder(folder, layers=[layer])
        with torch.no_grad():
            expected = rows(reference.forward_intermediates(pixels(built), indices=[layer % depth], intermediates_only=True)[0])
            came = built(pixels(built))
        assert torch.equal(came.tokens, expected)
        assert came.shape == built.output_shape


@pytest.mark.parametrize("name", ["vit", "registers", "siglip", "distilled"])
@pytest.mark.parametrize("norm", [True, False])
def test_transformers_are_timms_get_intermediate_layers(folders, name, norm):
    reference, folder = folders[name]
    depth, prefix = len(reference.blocks), reference.num_prefix_tokens
    built = encoder(folder, layers=[-1, 0], final_norm=norm, prefix="keep" if prefix else None)
    with torch.no_grad():
        first, last = reference.get_intermediate_layers(
            pixels(built), n=[0, depth - 1], return_prefix_tokens=prefix > 0, norm=norm
        )
        if prefix:
            first, last = torch.cat(first[::-1], dim=1), torch.cat(last[::-1], dim=1)
        assert torch.equal(built(pixels(built)).tokens, torch.cat([last, first], dim=2))  # in the order of `layers`


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vit", FeatureShape(64, 17, (4, 4), 1)),
        ("registers", FeatureShape(32, 30, (5, 5), 5)),
        ("siglip", FeatureShape(32, 16, (4, 4), 0)),
        ("swin", FeatureShape(64, 16, (4, 4), 0)),
        ("efficientnet", FeatureShape(1280, 49, (7, 7), 0)),
    ],
)
def test_last_layer_with_final_norm_is_timms_forward_features(folders, name, shape):
    reference, folder = folders[name]
    built = encoder(folder, final_norm=True, prefix="keep" if shape.prefix else None)
    with torch.no_grad():
        expected, came = reference.forward_features(pixels(built)), built(pixels(built))
    if name == "efficientnet":
        expected = rows(expected)
    elif name == "swin":
        expected = rows(expected.permute(0, 3, 1, 2))
    assert torch.equal(came.tokens, expected)
    assert came.shape == built.output_shape == shape


@pytest.mark.parametrize(
    ("architecture", "arguments", "prefix"),
    [
        pytest.param("cait_xxs24_224", {"embed_dim": 16, "depth": 2, "num_heads": 2}, 1, marks=SINCE_1_0_31),
        pytest.param(
            "xcit_nano_12_p8_224", {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64}, 1, marks=SINCE_1_0_31
        ),
        ("mixer_s32_224", {}, 0),
    ],
)
def test_features_that_come_as_a_row(architecture, arguments, prefix):
    # The class token joins after the last layer in the first two: `forward_features` has it, the layers do not.
    for keep in (False, True)[: 1 + prefix]:
        config = TimmConfig(
            config={"architecture": architecture, **arguments}, final_norm=True, prefix="keep" if keep else None
        )
        built = TimmEncoder(config).eval()
        with torch.no_grad():
            came, whole = built(pixels(built)), built.model.forward_features(pixels(built))
        assert came.shape == built.output_shape
        assert torch.equal(came.tokens, whole if keep else whole[:, prefix:])


# Sizes


@pytest.mark.parametrize(("name", "size"), [("vit", 96), ("siglip", 48), ("eva02", 84), ("registers", 42), ("swin", 144)])
def test_resized_is_timms_set_input_size(folders, name, size):
    reference, folder = folders[name]
    built = encoder(folder, image_size=size)
    resized = timm.create_model(MODELS[name][0], **MODELS[name][1]).eval()
    resized.load_state_dict(reference.state_dict())
    resized.set_input_size(img_size=(size, size))
    with torch.no_grad():
        expected = rows(resized.forward_intermediates(pixels(built), intermediates_only=True)[-1])
        assert torch.equal(built(pixels(built)).tokens, expected)
    assert built.output_shape.grid == (round(expected.shape[1] ** 0.5),) * 2


@pytest.mark.parametrize(("name", "size", "grid"), [("convnext", (100, 131), (3, 4)), ("efficientnet", (100, 131), (4, 5))])
def test_odd_sizes_round_as_the_model_does(folders, name, size, grid):
    built = encoder(folders[name][1], image_size=size)
    with torch.no_grad():
        assert built(pixels(built)).shape == built.output_shape
    assert built.output_shape.grid == grid


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [
        ("vit", (96, 48), (6, 3)),
        ("registers", (42, 98), (3, 7)),
        ("distilled", (96, 48), (6, 3)),
        ("siglip", (32, 80), (2, 5)),
        ("eva02", (84, 42), (6, 3)),
        ("convnext", (96, 64), (3, 2)),
        ("efficientnet", (96, 64), (3, 2)),
    ],
)
def test_views_of_other_sizes_are_those_of_a_model_resized_to_them(folders, name, size, grid):
    reference, folder = folders[name]
    built = encoder(folder)
    view = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    resized = timm.create_model(MODELS[name][0], **MODELS[name][1]).eval()
    resized.load_state_dict(reference.state_dict())
    if name not in ("convnext", "efficientnet"):
        resized.set_input_size(img_size=size)
    with torch.no_grad():
        came = built(view)
        expected = rows(resized.forward_intermediates(view, intermediates_only=True)[-1])
    assert came.shape == built.shape_at(size)
    assert came.grid == grid
    torch.testing.assert_close(came.tokens, expected, rtol=0, atol=1e-6)


def test_sizes_that_a_model_cannot_take_are_refused(folders):
    with pytest.raises(
        AssemblyError, match=r"`swin_tiny.* cannot encode an image of 224x224 pixels.*\(it is made for 112x112\)"
    ):
        encoder(folders["swin"][1]).shape_at((224, 224))
    built = encoder(folders["vit"][1])
    with pytest.raises(
        AssemblyError, match=r"`test_vit` cannot take views of 64x70 pixels whole: both sides must be multiples of 16"
    ):
        built(torch.zeros(1, 3, 64, 70))


@pytest.mark.parametrize("size", [{"img_size": 40}, {"img_size": 64}])
def test_a_patch_that_does_not_divide_the_size_leaves_the_rest_out_as_timm_does(size):
    """SigLIP at 384 pixels with patches of 14 has 27x27 of them; timm's `dynamic_img_size` would refuse the image."""
    options = {"architecture": "test_vit", "dynamic_img_size": False, **size}
    built = TimmEncoder(TimmConfig(config=options, image_size=40))
    assert built.output_shape.grid == (2, 2)
    image = pixels(built)
    with torch.no_grad():
        tokens = built(image).tokens
        image[..., 32:, :] = image[..., 32:] = 7.0
        assert torch.equal(built(image).tokens, tokens)


# Pruning, training, rebuilding


def test_what_no_tap_needs_is_not_there(folders):
    reference, folder = folders["vit"]
    built = encoder(folder, layers=[1])
    assert len(built.model.blocks) == 2 < len(reference.blocks)
    assert not any(name.startswith(("model.norm", "model.head")) for name in built.state_dict())
    assert not any(name.startswith("model.attn_pool") for name in encoder(folders["siglip"][1]).state_dict())


@pytest.mark.parametrize(
    ("name", "final_norm"),
    [(name, False) for name in MODELS] + [(name, True) for name in MODELS if name not in ("eva02", "beit", "convnext")],
)
def test_every_parameter_trains_or_is_listed_as_unused(folders, name, final_norm):
    built = encoder(folders[name][1], layers=[-1] if final_norm else [0], final_norm=final_norm).train()
    built(pixels(built)).tokens.square().sum().backward()
    silent = {key for key, parameter in built.named_parameters() if parameter.grad is None}
    assert silent == built.unused_parameters
    assert all(parameter.grad.abs().sum() > 0 for parameter in built.parameters() if parameter.grad is not None)


def test_a_parameter_behind_the_pooling_is_listed_as_unused():
    built = TimmEncoder(TimmConfig(config={"architecture": "ghostnet_050"}, image_size=64, final_norm=True))
    assert built.unused_parameters == {"model.conv_head.weight", "model.conv_head.bias"}
    built(pixels(built)).tokens.sum().backward()
    assert built.unused_parameters == {name for name, parameter in built.named_parameters() if parameter.grad is None}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SINCE_1_0_31) if name == "beit" else name for name in MODELS])
def test_rebuilt_from_the_resolved_config_with_the_same_tensors_it_is_the_same(folders, name):
    resized = {} if name in ("convnext", "efficientnet") else {"image_size": 84 if name == "eva02" else 112}
    config = TimmConfig(model=str(folders[name][1]), layers=[-2], **resized)
    first = TimmEncoder(config).eval()
    resolved = TimmEncoder.resolve(config)
    assert resolved.model is None
    assert TimmEncoder.resolve(resolved) == resolved
    again = TimmConfig(**json.loads(resolved.model_dump_json()))
    second = TimmEncoder(again).eval()
    second.load_state_dict(first.state_dict())
    assert second.transform == first.transform
    assert second.output_shape == first.output_shape
    with torch.no_grad():
        assert torch.equal(second(pixels(first)).tokens, first(pixels(first)).tokens)


@pytest.mark.parametrize("name", MODELS)
def test_builds_on_meta(folders, name):
    config = TimmEncoder.resolve(TimmConfig(model=str(folders[name][1])))
    with torch.device("meta"):
        described = TimmEncoder(config)
    assert all(tensor.is_meta for tensor in described.state_dict().values())
    built = TimmEncoder(config)
    assert described.output_shape == built.output_shape
    assert {key: value.shape for key, value in described.state_dict().items()} == {
        key: value.shape for key, value in built.state_dict().items()
    }


def test_resolving_a_pretrained_name_fetches_nothing(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("resolve must not build"))
    resolved = TimmEncoder.resolve(TimmConfig(model="vit_base_patch16_clip_quickgelu_224.openai", layers=[-2]))
    assert resolved.config == {"architecture": "vit_base_patch16_clip_quickgelu_224.openai"}
    assert resolved.image_size == (224, 224)
    assert resolved.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert (resolved.interpolation, resolved.resize, resolved.crop_fraction) == ("bicubic", "crop", 0.9)


# Weights


def test_pretrained_weights_are_fetched_whole_by_timm(monkeypatch):
    asked = {}

    def fetch(name, *, pretrained, pretrained_cfg, **arguments):
        asked.update(name=name, pretrained=pretrained, arguments=arguments)
        model = real(name, pretrained_cfg=pretrained_cfg, **arguments)
        if pretrained:
            model.load_state_dict(whole)
        return model

    real, whole = timm.create_model, timm.create_model("test_vit").state_dict()
    monkeypatch.setattr(timm, "create_model", fetch)
    built = TimmEncoder(TimmConfig(model="test_vit"))
    assert asked == {"name": "test_vit", "pretrained": True, "arguments": {"dynamic_img_size": True}}
    assert torch.equal(built.model.patch_embed.proj.weight, whole["patch_embed.proj.weight"])


def test_weights_that_timm_cannot_fetch_give_our_message(monkeypatch):
    real = timm.create_model

    def offline(name, *, pretrained, **arguments):
        if pretrained:
            raise OSError("no connection")
        return real(name, **arguments)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        ConfigError, match=r"timm cannot load the pretrained weights of `test_vit`: no connection; with `weights`"
    ):
        TimmEncoder(TimmConfig(model="test_vit"))


def test_weights_file_with_and_without_what_was_pruned(tmp_path):
    whole = timm.create_model("test_efficientnet").eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    options = {"model": "test_efficientnet", "final_norm": True, "image_size": 64}
    first = TimmEncoder(TimmConfig(weights=str(tmp_path / "whole.safetensors"), **options)).eval()
    assert torch.equal(first(pixels(first)).tokens, rows(whole.forward_features(pixels(first))))
    save_file(first.model.state_dict(), tmp_path / "pruned.safetensors")
    assert len(load_file(tmp_path / "pruned.safetensors")) < len(whole.state_dict())
    second = TimmEncoder(TimmConfig(weights=str(tmp_path / "pruned.safetensors"), **options)).eval()
    assert torch.equal(first(pixels(first)).tokens, second(pixels(first)).tokens)


def test_weights_that_do_not_fit_say_all_reasons(tmp_path):
    state = timm.create_model("test_vit").state_dict()
    state["surplus.weight"] = torch.zeros(1)
    del state["blocks.0.norm1.weight"]
    state["cls_token"] = torch.zeros(1, 1, 7)
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError) as caught:
        TimmEncoder(TimmConfig(model="test_vit", weights=str(tmp_path / "bad.safetensors")))
    text = str(caught.value)
    assert "bad.safetensors` does not fit to the model" in text
    assert "1 of 76 tensors are missing: `blocks.0.norm1.weight`" in text
    assert f"1 of its {len(state)} tensors belong to no part of the model: `surplus.weight`" in text
    assert "`cls_token` is (1, 1, 7) in the file and (1, 1, 64) in the model" in text


def test_weights_that_are_no_safetensors(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"\x80\x04nonsense")
    for path in ("weights.bin", "absent.safetensors"):
        with pytest.raises(CheckpointError, match=f"{path}` cannot be read as safetensors"):
            TimmEncoder(TimmConfig(model="test_vit", weights=str(tmp_path / path)))


# Preprocessing


@pytest.mark.parametrize("architecture", ["test_vit", "vit_base_patch16_siglip_224", "vit_base_patch16_clip_224.openai"])
def test_transform_is_timms(architecture):
    arguments = {} if architecture == "test_vit" else {"depth": 1, "embed_dim": 12, "num_heads": 1}
    built = TimmEncoder(TimmConfig(config={"architecture": architecture, **arguments}))
    record = resolve_model_data_config(timm.create_model(architecture, **arguments))
    for height, width in ((300, 300), (301, 417), (224, 224), (523, 160), (1000, 753), (90, 31)):
        generator = torch.Generator().manual_seed(0)
        image = Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).numpy())
        torch.testing.assert_close(built.transform(image), create_transform(**record)(image), rtol=0, atol=1e-6)


def test_preprocessing_of_the_quickstart():
    config = TimmConfig(
        config={"architecture": "tf_efficientnet_lite0"},
        image_size=128, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resize="squash", interpolation="bilinear",
    )  # fmt: skip
    transform = TimmEncoder(config).transform
    image = Image.new("RGB", (128, 128), (200, 127, 0))
    expected = (torch.tensor([200.0, 127.0, 0.0]) - 127) / 128
    torch.testing.assert_close(transform(image)[:, 5, 7], expected, rtol=0, atol=1e-6)
    assert (transform.height, transform.width, transform.interpolation) == (128, 128, "bilinear")


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "vit_base_patch16_223"},
            "neither a folder nor a model that timm .* knows; did you mean `vit_base_patch16_224`?",
        ),
        ({"model": "vit_base_patch16_clip_224.opena"}, "no weights tagged `opena`; did you mean `openai`"),
        (
            {"config": {"architecture": "test_vit", "dept": 2}},
            r"timm's `test_vit` does not take the arguments \['dept'\].*dept",
        ),
        (
            {"config": {"architecture": "test_vit"}, "layers": [-7, 6]},
            r"`layers` names \[-7, 6\], and .* has 6 layers: use -6 to -1",
        ),
        (
            {"config": {"architecture": "test_efficientnet"}, "layers": [-2], "final_norm": True},
            r"`final_norm: true` with `layers` \(=\[-2\]\).*`test_efficientnet` has after its last layer fits that layer only",
        ),
        (
            {"config": {"architecture": "resnet18"}, "final_norm": True},
            "`final_norm: true`: timm's `resnet18` has nothing between its last layer and its pooling",
        ),
        (
            {"config": {"architecture": "beit_base_patch16_224", **SMALL}, "final_norm": True},
            "`beit_base_patch16_224` has nothing between its last layer and its pooling",
        ),
        (
            {"config": {"architecture": "test_convnext"}, "layers": [-2, -1]},
            "different grids cannot be concatenated: layer 2 10x10, layer 3 5x5; take layers of one grid",
        ),
        (
            {"config": {"architecture": "test_convnext"}, "prefix": "keep"},
            "`prefix: keep`: .* has no prefix token to keep",
        ),
        pytest.param(
            {"config": {"architecture": "coat_tiny"}, "final_norm": True},
            "gives 3 maps for this model, not one: set `final_norm: false`",
            marks=SINCE_1_0_31,
        ),
        ({"config": {"architecture": "pit_ti_224"}, "final_norm": True}, r"gives 1 tokens .*last grid \(0 \+ 7x7\)"),
        (
            {"config": {"architecture": "cait_xxs24_224"}, "image_size": 96},
            r"\(96x96\): .* is made for 224x224 and cannot be resized",
        ),
        (
            {"config": {"architecture": "test_vit"}, "image_size": 65},
            "`test_vit` cannot (be resized to|encode an image of) 65x65",
        ),
        pytest.param(
            {"config": {"architecture": "gemma4_vit_167m"}},
            "`gemma4_vit_167m` cannot encode an image of 768x768 pixels",
            marks=SINCE_1_0_31,
        ),
        (
            {"config": {"architecture": "test_vit"}, "resize": "pad", "crop_fraction": 0.9},
            r"`crop_fraction` \(=0.9\) is read with `resize: crop` or `squash`, not with `resize: pad`",
        ),
    ],
)
def test_what_does_not_fit_is_said(options, message):
    with pytest.raises((ConfigError, AssemblyError), match=message):
        TimmEncoder(TimmConfig(**options))


def test_every_way_to_preprocess_that_timm_records_is_timms():
    """One model of each way: size, filter, mode and fraction of the cut; images of odd sizes."""
    ways: dict[tuple[object, ...], str] = {}
    quick = set(timm.list_models("*_quickgelu_*", pretrained=True))
    for name in timm.list_models(pretrained=True):
        record = timm.models.get_pretrained_cfg(name)
        if f"{name.replace('clip_', 'clip_quickgelu_')}" in quick:
            continue  # refused: the weights are those of the other name
        if record.input_size[0] == 3 and record.input_size[1] <= 256 and record.crop_mode != "border":
            ways.setdefault((record.crop_mode, record.crop_pct, record.interpolation, record.input_size), name)
    assert {way[0] for way in ways} == {"center", "squash"} and len(ways) > 20
    generator = torch.Generator().manual_seed(0)
    for number, (way, name) in enumerate(ways.items()):
        config = TimmConfig(model=name)
        height, width = [(301, 417), (224, 224), (523, 160), (90, 31)][number % 4]
        image = Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).numpy())
        record = resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
        if record["interpolation"] == "random":
            continue
        came = image_transform(config, described(config))(image)
        torch.testing.assert_close(came, create_transform(**record)(image), rtol=0, atol=1e-6, msg=f"{name}: {way}")


def test_weights_trained_with_quickgelu_need_a_model_that_computes_with_it():
    trained = timm.list_models("*_quickgelu_*", pretrained=True)
    assert len(trained) >= 17
    for name in trained:
        assert described(TimmConfig(model=name)).name == name
        plain = name.replace("_quickgelu", "")
        with pytest.raises(ConfigError) as caught:
            described(TimmConfig(model=plain))
        assert str(caught.value) == (
            f"the weights of timm's `{plain}` were trained with QuickGELU, and `{plain.partition('.')[0]}` computes with GELU: "
            f"use `model: {name}`"
        )
    assert described(TimmConfig(model="vit_base_patch16_clip_224.laion2b")).name.endswith("laion2b")
    # An architecture with random weights is whatever it is called.
    described(TimmConfig(config={"architecture": "vit_base_patch16_clip_224.openai"}))


def test_preprocessing_that_is_none_of_ours_is_refused(monkeypatch):
    record = timm.models.get_pretrained_cfg("test_vit").to_dict() | {"crop_mode": "border", "crop_pct": 0.9}
    monkeypatch.setattr("vlmzoo_timm.architecture._record", lambda name: record)
    with pytest.raises(ConfigError, match=r"was evaluated with `border` and then cut to 0.9.* set `resize`"):
        TimmEncoder.resolve(TimmConfig(model="test_vit"))
    assert TimmEncoder.resolve(TimmConfig(model="test_vit", resize="squash")).crop_fraction == 1.0


@pytest.mark.parametrize(
    "text", [None, "{", '{"architecture": "test_vit"}', '{"architecture": "nonsense", "pretrained_cfg": {}}']
)
def test_a_folder_that_is_not_timms(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"not a config\.json as timm writes it|neither a folder nor a model that timm"):
        TimmEncoder(TimmConfig(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give either `model` \(pretrained weights\) or `config` \(an architecture\), not neither"),
        ({"model": "a", "config": {"architecture": "b"}}, "not both"),
        ({"weights": "w", "config": {"architecture": "b"}}, r"`weights` \(=w\) go with `model`"),
        ({"config": {}}, "`config` needs `architecture`"),
        ({"config": {"architecture": "b", "num_classes": 3}}, "`config.num_classes`: the classifier is left out anyway"),
        ({"model": "a", "layers": []}, "at least 1 item"),
        ({"model": "a", "mean": [1, 2]}, "mean"),
        ({"model": "a", "normalize": True}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValidationError, match=message):
        TimmConfig(**options)


def test_descriptions_and_options_are_read_without_torch():
    code = (
        "import sys, vlmzoo_timm.config, vlmzoo_timm.plugin; vlmzoo_timm.plugin.vlmzoo_components(); "
        "vlmzoo_timm.config.TimmConfig.model_json_schema(); assert not {'torch', 'timm', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tiny_instance_is_tiny():
    (spec,) = vlmzoo_components()
    built = TimmEncoder(TimmConfig(**spec.tiny))
    assert sum(parameter.numel() for parameter in built.parameters()) < 1_000_000
    assert built(pixels(built)).shape == built.output_shape == FeatureShape(128, 16, (4, 4), 0)
