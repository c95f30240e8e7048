"""open_clip towers behind the contract, against open_clip's own `forward_intermediates` and `forward` with the same weights."""

import json
import subprocess
import sys

import open_clip
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from packaging.version import Version
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import save_file

from vlmzoo_openclip.config import OpenClipConfig
from vlmzoo_openclip.encoder import OpenClipEncoder
from vlmzoo_openclip.plugin import vlmzoo_components
from vlmzoo_registry import AssemblyError, CheckpointError, ConfigError, FeatureShape, VisionEncoder

VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3}
TEXT = {"context_length": 4, "vocab_size": 10, "width": 8, "heads": 1, "layers": 1}
TOWERS = {
    # name: model config, tokens of layer -1 with the prefix kept
    "vit": ({"vision_cfg": VIT}, FeatureShape(32, 17, (4, 4), 1)),
    "quick": ({"vision_cfg": VIT, "quick_gelu": True}, FeatureShape(32, 17, (4, 4), 1)),
    "wide": ({"vision_cfg": {**VIT, "image_size": [16, 40], "patch_dropout": 0.0}}, FeatureShape(32, 11, (2, 5), 1)),
    "coca": ({"vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_heads": 2}}, FeatureShape(32, 17, (4, 4), 1)),
    "sincos": ({"vision_cfg": {**VIT, "pos_embed_type": "sin_cos_2d"}}, FeatureShape(32, 17, (4, 4), 1)),
    "timm_vit": (
        {"vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token", "timm_proj": "linear"}},
        FeatureShape(64, 101, (10, 10), 1),
    ),
    "timm_convnext": (
        {"vision_cfg": {"timm_model_name": "test_convnext", "image_size": 64, "timm_pool": "avg"}},
        FeatureShape(64, 4, (2, 2), 0),
    ),
    "resnet": (
        {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64}},
        FeatureShape(256, 4, (2, 2), 0),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each model, open_clip's own with every tensor at random, and a folder as open_clip writes it."""
    made = {}
    for name, (architecture, _) in TOWERS.items():
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(name)
        model = {"embed_dim": 8, "text_cfg": TEXT, **architecture}
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
        reference = open_clip.create_model(f"local-dir:{folder}").eval()
        with torch.no_grad():
            for parameter in reference.visual.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        save_file(reference.state_dict(), folder / "open_clip_model.safetensors")
        made[name] = reference.visual, folder
    return made


def encoder(folder, **options) -> OpenClipEncoder:
    return OpenClipEncoder(OpenClipConfig(model=str(folder), **options)).eval()


def pixels(built: OpenClipEncoder) -> torch.Tensor:
    return torch.randn(2, 3, built.transform.height, built.transform.width, generator=torch.Generator().manual_seed(0))


def rows(image, prefix=None) -> torch.Tensor:
    """A map as rows, prefix first, then row by row, written as loops."""
    places = [image[:, :, row, column] for row in range(image.shape[2]) for column in range(image.shape[3])]
    return torch.stack([*([] if prefix is None else prefix.unbind(1)), *places], dim=1)


# Parity with open_clip


@pytest.mark.parametrize("name", TOWERS)
def test_layers_are_open_clips_forward_intermediates(folders, name):
    reference, folder = folders[name]
    shape = TOWERS[name][1]
    depth = {"timm_vit": 6, "timm_convnext": 4, "resnet": 5}.get(name, 3)
    for layer in (-1, -2, 0):
        built = encoder(folder, layers=[layer], prefix="keep" if shape.prefix else None)
        assert isinstance(built, VisionEncoder)
        with torch.no_grad():
            whole = reference.forward_intermediates(
                pixels(built), indices=[layer % depth], intermediates_only=True, output_extra_tokens=shape.prefix > 0
            )
            expected = rows(whole["image_intermediates"][0], whole.get("image_intermediates_prefix", [None])[0])
            came = built(pixels(built))
        assert torch.equal(came.tokens, expected)
        assert came.shape == built.output_shape
        assert layer != -1 or came.shape == shape


def test_resnet_layers_are_its_stages(folders):
    reference, folder = folders["resnet"]
    built = encoder(folder, layers=[-2])
    with torch.no_grad():
        expected = reference.layer3(reference.layer2(reference.layer1(reference.stem(pixels(built)))))
        assert torch.equal(built(pixels(built)).tokens, rows(expected))


@pytest.mark.parametrize("name", ["vit", "quick", "wide"])
def test_last_layer_with_final_norm_is_what_open_clips_forward_calls_tokens(folders, name):
    reference, folder = folders[name]
    built = encoder(folder, final_norm=True)
    reference.output_tokens = True
    with torch.no_grad():
        _, expected = reference(pixels(built))
        came = built(pixels(built))
    reference.output_tokens = False
    assert torch.equal(came.tokens, expected)
    assert came.shape == built.output_shape


def test_timm_trunk_with_final_norm_is_its_forward_features(folders):
    reference, folder = folders["timm_vit"]
    built = encoder(folder, final_norm=True, prefix="keep")
    with torch.no_grad():
        assert torch.equal(built(pixels(built)).tokens, reference.trunk.forward_features(pixels(built)))


def test_several_layers_are_concatenated_in_the_order_given(folders):
    reference, folder = folders["vit"]
    built = encoder(folder, layers=[-1, 0], final_norm=True)
    with torch.no_grad():
        first, last = reference.forward_intermediates(
            pixels(built), indices=[0, 2], normalize_intermediates=True, intermediates_only=True
        )["image_intermediates"]
        assert torch.equal(built(pixels(built)).tokens, torch.cat([rows(last), rows(first)], dim=2))


def test_the_activation_makes_a_difference(folders):
    _, folder = folders["quick"]
    quick = encoder(folder)
    saved = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    plain = OpenClipEncoder(OpenClipConfig(config={"embed_dim": 8, "vision_cfg": saved["vision_cfg"]})).eval()
    plain.load_state_dict(quick.state_dict())
    with torch.no_grad():
        assert (plain(pixels(plain)).tokens - quick(pixels(plain)).tokens).abs().max() > 1e-3


# Sizes


@pytest.mark.parametrize(
    ("name", "size"), [("vit", 48), ("vit", (24, 48)), ("timm_vit", 64), ("resnet", 96), ("timm_convnext", 96)]
)
def test_resized_is_open_clips_force_image_size(folders, name, size):
    reference, folder = folders[name]
    built = encoder(folder, image_size=size)
    if name in ("vit", "timm_vit"):
        reference = open_clip.create_model(f"local-dir:{folder}", force_image_size=size).visual.eval()
    with torch.no_grad():
        expected = reference.forward_intermediates(pixels(built), intermediates_only=True)["image_intermediates"][-1]
        came = built(pixels(built))
    assert torch.equal(came.tokens, rows(expected))
    assert came.shape == built.output_shape


def test_another_size_than_the_transform_gives_is_refused(folders):
    built = encoder(folders["vit"][1])
    with pytest.raises(AssemblyError, match=r"`open_clip/encoder`: `pixels` are \[1, 3, 64, 32\], .* \[images, 3, 32, 32\]"):
        built(torch.zeros(1, 3, 64, 32))


# Pruning, training, rebuilding


def test_what_no_tap_needs_is_not_there(folders):
    names = set(encoder(folders["vit"][1], layers=[1]).state_dict())
    assert "tower.transformer.resblocks.1.ln_1.weight" in names
    assert not any(name.startswith(("tower.transformer.resblocks.2", "tower.ln_post", "tower.proj")) for name in names)
    assert not any(
        name.startswith(("tower.layer4", "tower.attnpool")) for name in encoder(folders["resnet"][1], layers=[-2]).state_dict()
    )
    assert not any(name.startswith("tower.head") for name in encoder(folders["timm_vit"][1]).state_dict())


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("layer", [0, -1])
def test_every_parameter_trains_or_is_listed_as_unused(folders, name, layer):
    built = encoder(folders[name][1], layers=[layer], final_norm=name in ("vit", "quick", "timm_vit")).train()
    built(pixels(built)).tokens.square().sum().backward()
    silent = {key for key, tensor in built.named_parameters() if tensor.grad is None}
    assert silent == built.unused_parameters
    if name != "timm_convnext" or Version(timm.__version__) >= Version(
        "1.0.31"
    ):  # an earlier timm makes one that it does not use
        assert bool(silent) == (name in ("coca", "sincos"))
    assert all(key == "tower.positional_embedding" for key in silent if name == "sincos")
    assert all(tensor.grad.abs().sum() > 0 for tensor in built.parameters() if tensor.grad is not None)


@pytest.mark.parametrize(
    ("name", "size"),
    # open_clip resizes position embeddings from square grids only.
    [(name, None) for name in TOWERS] + [(name, 96) for name in TOWERS if name != "wide"],
)
def test_rebuilt_from_the_resolved_config_with_the_same_tensors_it_is_the_same(folders, name, size):
    config = OpenClipConfig(model=str(folders[name][1]), layers=[-2], image_size=size)
    first = OpenClipEncoder(config).eval()
    resolved = OpenClipEncoder.resolve(config)
    assert (resolved.model, resolved.pretrained) == (None, None)
    assert OpenClipEncoder.resolve(resolved) == resolved
    second = OpenClipEncoder(OpenClipConfig(**json.loads(resolved.model_dump_json()))).eval()
    second.load_state_dict(first.state_dict())
    assert (second.transform, second.output_shape) == (first.transform, first.output_shape)
    with torch.no_grad():
        assert torch.equal(second(pixels(first)).tokens, first(pixels(first)).tokens)


@pytest.mark.parametrize("name", TOWERS)
def test_builds_on_meta(folders, name):
    config = OpenClipEncoder.resolve(OpenClipConfig(model=str(folders[name][1])))
    with torch.device("meta"):
        described = OpenClipEncoder(config)
    assert all(tensor.is_meta for tensor in described.state_dict().values())
    built = OpenClipEncoder(config)
    assert described.output_shape == built.output_shape
    assert {key: value.shape for key, value in described.state_dict().items()} == {
        key: value.shape for key, value in built.state_dict().items()
    }


def test_resolving_a_pretrained_name_fetches_nothing(monkeypatch):
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("resolve must not load"))
    resolved = OpenClipEncoder.resolve(OpenClipConfig(model="ViT-B-16-SigLIP", pretrained="webli", layers=[-2]))
    assert resolved.config["vision_cfg"]["timm_model_name"] == "vit_base_patch16_siglip_224"
    assert (resolved.mean, resolved.resize, resolved.interpolation) == ((0.5, 0.5, 0.5), "squash", "bicubic")
    quick = OpenClipEncoder.resolve(OpenClipConfig(model="ViT-L-14-336-quickgelu", pretrained="openai"))
    assert quick.config["quick_gelu"] is True
    assert quick.image_size == (336, 336)


# Weights


@pytest.fixture
def registered(folders, tmp_path, monkeypatch):
    """The small transformer under a name of its own in open_clip's table."""
    _, folder = folders["vit"]
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    model = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    model["vision_cfg"]["patch_dropout"] = 0.5
    (tmp_path / "small.json").write_text(json.dumps(model))
    open_clip.add_model_config(tmp_path / "small.json")
    return folder / "open_clip_model.safetensors"


def test_weights_from_a_file(folders, registered):
    from_file = OpenClipEncoder(OpenClipConfig(model="small", pretrained=str(registered))).eval()
    from_folder = encoder(folders["vit"][1])
    assert torch.equal(from_file(pixels(from_file)).tokens, from_folder(pixels(from_file)).tokens)
    from_file.train()
    assert from_file(pixels(from_file)).shape == from_file.output_shape  # patch dropout is a matter of CLIP's own training


def test_weights_that_do_not_fit(registered, tmp_path):
    save_file({"visual.proj": torch.zeros(3)}, tmp_path / "bad.safetensors")
    with pytest.raises(
        CheckpointError, match=r"cannot load the weights of open_clip's `small` from .*bad.safetensors`: (?s:.)*Missing"
    ):
        OpenClipEncoder(OpenClipConfig(model="small", pretrained=str(tmp_path / "bad.safetensors")))


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("no connection")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(
        CheckpointError, match="cannot load the weights of open_clip's `ViT-B-32` from `laion2b_e16`: no connection"
    ):
        OpenClipEncoder(OpenClipConfig(model="ViT-B-32", pretrained="laion2b_e16"))


def test_a_folder_without_weights(folders, tmp_path):
    text = (folders["vit"][1] / "open_clip_config.json").read_text()
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(CheckpointError, match="cannot load the weights of open_clip's `local-dir:"):
        encoder(tmp_path)


# Preprocessing


@pytest.mark.parametrize(
    "recorded", [{}, {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.2] * 3}]
)
def test_transform_is_open_clips(folders, tmp_path, recorded):
    _, folder = folders["vit"]
    saved = json.loads((folder / "open_clip_config.json").read_text()) | {"preprocess_cfg": recorded}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(saved))
    (tmp_path / "open_clip_model.safetensors").write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    transform = encoder(tmp_path).transform
    theirs = image_transform_v2(PreprocessCfg(**(recorded | {"size": 32})), is_train=False)
    for height, width in ((50, 50), (47, 81), (32, 32), (133, 40), (20, 21)):
        generator = torch.Generator().manual_seed(0)
        image = Image.fromarray(torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator).numpy())
        torch.testing.assert_close(transform(image), theirs(image), rtol=0, atol=1e-6)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "ViT-B-33", "pretrained": "openai"},
            "neither a folder nor a model that open_clip .* knows; did you mean `ViT-B-32`",
        ),
        ({"model": "ViT-B-16"}, "`model: ViT-B-16` needs `pretrained`: one of openai, laion400m_e31"),
        (
            {"model": "ViT-B-16", "pretrained": "opena"},
            r"`pretrained` \(=opena\) is neither .*`ViT-B-16`; did you mean `openai`\? It has",
        ),
        (
            {"model": "ViT-B-32", "pretrained": "openai"},
            "the weights `openai` of open_clip's `ViT-B-32` were trained with QuickGELU, and `ViT-B-32` computes with GELU: "
            "use `model: ViT-B-32-quickgelu`",
        ),
        (
            {"model": "ViT-B-32-quickgelu", "pretrained": "laion400m_e31", "config": None},
            None,
        ),
        (
            {"config": {"embed_dim": 8, "vision_cfg": VIT}, "resize": "pad", "crop_fraction": 0.9},
            r"`crop_fraction` \(=0.9\) is read with `resize: crop` or `squash`, not with `pad`",
        ),
        ({"config": {"embed_dim": 8, "vision_cfg": {"widht": 3}}}, "cannot build the tower that `config` describes .*'widht'"),
        (
            {"config": {"embed_dim": 8, "vision_cfg": {**VIT, "patch_dropout": 0.5}}},
            r"`patch_dropout` \(=0.5\) drops image tokens",
        ),
        (
            {"config": {"embed_dim": 8, "vision_cfg": VIT}, "layers": [-4, 3]},
            r"`layers` names \[-4, 3\], and .* has 3 layers: use -3 to",
        ),
        (
            {"config": {"embed_dim": 8, **TOWERS["resnet"][0]}, "final_norm": True},
            r"`final_norm: true`: the tower that `config` describes has no norm for the layers \[-1\]",
        ),
        ({"config": {"embed_dim": 8, **TOWERS["resnet"][0]}, "prefix": "keep"}, "has no prefix token to keep"),
        (
            {"config": {"embed_dim": 8, **TOWERS["resnet"][0]}, "layers": [-2, -1]},
            "different grids cannot be concatenated: layer 3 4x4, layer 4 2x2",
        ),
        (
            {"config": {"embed_dim": 8, **TOWERS["coca"][0]}, "final_norm": True},
            "the tower that `config` describes cannot give these layers of an image of 32x32 pixels",
        ),
    ],
)
def test_what_does_not_fit_is_said(options, message):
    if message is None:
        assert OpenClipEncoder.resolve(OpenClipConfig(**options)).config["quick_gelu"]
        return
    with pytest.raises((ConfigError, AssemblyError), match=message):
        OpenClipEncoder(OpenClipConfig(**options))


def test_every_mismatch_of_quickgelu_is_refused_and_nothing_else():
    refused = {}
    for name, tag in open_clip.list_pretrained():
        computed = bool(open_clip.get_model_config(name).get("quick_gelu", False))
        trained = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
        try:
            OpenClipEncoder.resolve(OpenClipConfig(model=name, pretrained=tag))
        except ConfigError as error:
            refused[name, tag] = (computed, trained, str(error))
        else:
            assert computed == trained, (name, tag)
    assert {(computed, trained) for computed, trained, _ in refused.values()} == {(True, False), (False, True)}
    for (name, _), (_, trained, text) in refused.items():
        assert f"were trained with {'QuickGELU' if trained else 'GELU'}, and `{name}` computes with" in text
    assert refused["ViT-L-14", "openai"][2].endswith("use `model: ViT-L-14-quickgelu`")
    # Its name has no other form; open_clip's record may simply lack a word.
    assert refused["roberta-ViT-B-32", "laion2b_s12b_b32k"][2].endswith("give the file with the weights as `pretrained`")


def test_padding_with_a_colour_of_its_own_is_refused(folders, tmp_path):
    saved = json.loads((folders["vit"][1] / "open_clip_config.json").read_text()) | {
        "preprocess_cfg": {"resize_mode": "longest"}
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(saved))
    with pytest.raises(
        ConfigError, match="`resize_mode: longest` and the fill colour 0, which is none of our ways to resize: set"
    ):
        OpenClipEncoder.resolve(OpenClipConfig(model=str(tmp_path)))
    assert OpenClipEncoder.resolve(OpenClipConfig(model=str(tmp_path), resize="pad")).resize == "pad"


@pytest.mark.parametrize("text", [None, "{", "{}", '{"model_cfg": {"embed_dim": 8}}', '{"model_cfg": []}'])
def test_a_folder_that_is_not_open_clips(tmp_path, text):
    if text is not None:
        (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"is not an open_clip_config\.json with `model_cfg`"):
        encoder(tmp_path)


def test_a_folder_has_its_own_weights(folders):
    with pytest.raises(
        ConfigError, match=r"`pretrained` \(=openai\) goes with an open_clip name; the folder .* has its own weights"
    ):
        encoder(folders["vit"][1], pretrained="openai")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"give either `model` \(pretrained weights\) or `config` \(an architecture\), not neither"),
        ({"config": {"embed_dim": 8, "vision_cfg": {}}, "pretrained": "openai"}, r"`pretrained` \(=openai\) goes with `model`"),
        ({"config": {}}, "`config` needs `embed_dim` and `vision_cfg`"),
        ({"config": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}, "nothing reads `text_cfg`"),
        ({"model": "a", "crop_fraktion": 0.9}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ValidationError, match=message):
        OpenClipConfig(**options)


def test_descriptions_and_options_are_read_without_torch():
    code = (
        "import sys, vlmzoo_openclip.config, vlmzoo_openclip.plugin; vlmzoo_openclip.plugin.vlmzoo_components(); "
        "vlmzoo_openclip.config.OpenClipConfig.model_json_schema(); "
        "assert not {'torch', 'timm', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tiny_instance_is_tiny():
    (spec,) = vlmzoo_components()
    built = OpenClipEncoder(OpenClipConfig(**spec.tiny))
    assert sum(parameter.numel() for parameter in built.parameters()) < 1_000_000
    assert built(pixels(built)).shape == built.output_shape == FeatureShape(64, 17, (4, 4), 1)
