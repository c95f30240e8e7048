"""`transformers/vision` against the hidden states of transformers, over towers that no code here names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, CLIPImageProcessorPil, CLIPVisionModel

from vlmzoo_registry import AssemblyError, ConfigError
from vlmzoo_transformers import tower
from vlmzoo_transformers.config import MllamaVisionConfig, VisionConfig
from vlmzoo_transformers.mllama_vision import MllamaVisionEncoder
from vlmzoo_transformers.vision import TransformersVisionEncoder

BASE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
PAIRS = {"image_size": [32, 32], "patch_size": [8, 8]}
# Family -> options, tokens that are no patches, whether its last hidden state is normed over all tokens.
FAMILIES: dict[str, tuple[dict[str, Any], int, bool]] = {
    "clip_vision_model": ({}, 1, False),
    "siglip_vision_model": ({}, 0, True),
    "vit": ({}, 1, True),
    "deit": ({}, 2, True),
    "dinov2": ({}, 1, True),
    "dinov2_with_registers": ({}, 5, True),
    "dinov3_vit": ({}, 1, True),
    "ijepa": ({}, 0, True),
    "aimv2_vision_model": ({}, 0, True),
    "internvl_vision": (PAIRS, 1, False),
}


def encoder(family: str, **options: Any) -> TransformersVisionEncoder:
    """A tiny random tower of a family."""
    torch.manual_seed(0)
    made = TransformersVisionEncoder(VisionConfig(config={"model_type": family, **BASE, **FAMILIES[family][0]}, **options))
    return made.eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    """Two images."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_hidden_states_counted_from_the_end(family: str, pixels: torch.Tensor) -> None:
    tower = encoder(family, layers=(-1, -3))
    prefix = FAMILIES[family][1]
    with torch.no_grad():
        states = tower.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        features = tower(pixels)
    assert features.shape == tower.output_shape
    assert features.grid == (4, 4) and features.prefix == 0
    expected = torch.cat([states[-1], states[-3]], dim=-1)[:, prefix:]
    assert torch.equal(features.tokens, expected)


@pytest.mark.parametrize("family", [name for name, (_, _, normed) in FAMILIES.items() if normed])
def test_final_norm_gives_the_last_hidden_state(family: str, pixels: torch.Tensor) -> None:
    tower = encoder(family, final_norm=True)
    with torch.no_grad():
        expected = tower.model(pixel_values=pixels).last_hidden_state[:, FAMILIES[family][1] :]
        assert torch.equal(tower(pixels).tokens, expected)
        assert not torch.equal(encoder(family)(pixels).tokens, expected)


@pytest.mark.parametrize("family", [name for name, (_, prefix, _) in FAMILIES.items() if prefix])
def test_prefix_tokens_are_kept_on_request(family: str, pixels: torch.Tensor) -> None:
    kept, dropped = encoder(family, prefix="keep"), encoder(family)
    prefix = FAMILIES[family][1]
    assert kept.output_shape.prefix == prefix and kept.output_shape.count == 16 + prefix
    with torch.no_grad():
        assert torch.equal(kept(pixels).tokens[:, prefix:], dropped(pixels).tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_unused_parameters_are_exactly_those_without_a_gradient(family: str, pixels: torch.Tensor) -> None:
    tower = encoder(family, layers=(-2,))
    tower(pixels).tokens.square().sum().backward()
    without = {name for name, parameter in tower.named_parameters() if parameter.grad is None and parameter.requires_grad}
    assert without == tower.unused_parameters
    assert without or FAMILIES[family][0]


def test_a_pretrained_clip_folder_is_loaded_with_its_preprocessing(tmp_path: Path, pixels: torch.Tensor) -> None:
    reference = CLIPVisionModel(AutoConfig.for_model("clip_vision_model", **BASE)).eval()
    reference.save_pretrained(tmp_path)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
    )
    processor.save_pretrained(tmp_path)
    tower = TransformersVisionEncoder(VisionConfig(model=str(tmp_path), layers=(-2,))).eval()
    with torch.no_grad():
        expected = reference(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        assert torch.equal(tower(pixels).tokens, expected)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 80, 3), dtype=np.uint8))
    wanted = torch.as_tensor(np.array(processor(image, return_tensors="np")["pixel_values"][0]))
    assert (tower.transform(image) - wanted).abs().max() <= 1e-5
    resolved = TransformersVisionEncoder.resolve(VisionConfig(model=str(tmp_path)))
    assert resolved.mean == (0.1, 0.2, 0.3) and resolved.std == (0.4, 0.5, 0.6)
    rebuilt = TransformersVisionEncoder(resolved)
    assert rebuilt.transform == tower.transform


def test_a_folder_without_a_preprocessor_file_asks_for_the_statistics(tmp_path: Path) -> None:
    CLIPVisionModel(AutoConfig.for_model("clip_vision_model", **BASE)).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match="comes with no image preprocessor file, so its pixel statistics are not known: set `mean`"
    ):
        TransformersVisionEncoder(VisionConfig(model=str(tmp_path)))


def test_every_reason_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        encoder("internvl_vision", layers=(-2, -9, 4), final_norm=True)
    assert error.value.reasons == (
        "`layers` asks for block -9, but `internvl_vision` has 4 (use -4 to -1)",
        "`layers` asks for block 4, but `internvl_vision` has 4 (use -4 to -1)",
        "`final_norm: true`: `internvl_vision` has no norm after its last block (use false)",
    )
    with pytest.raises(ConfigError, match="`prefix: keep`: `siglip_vision_model` has no prefix token to keep"):
        encoder("siglip_vision_model", prefix="keep")


def test_pixels_of_another_size_are_refused() -> None:
    with pytest.raises(
        AssemblyError, match=r"`vit` cannot take views of 48x44 pixels whole: both sides must be multiples of 8x8"
    ):
        encoder("vit")(torch.zeros(1, 3, 48, 44))


def test_mllama_refuses_other_towers() -> None:
    with pytest.raises(ConfigError, match=r"is the tower of Llama 3\.2 Vision"):
        MllamaVisionEncoder(MllamaVisionConfig(config={"model_type": "clip_vision_model", **BASE}))


def test_auto_model_still_maps_towers() -> None:
    """What `transformers/vision` relies on: a composite CLIP config's vision part builds the tower alone."""
    assert type(AutoModel.from_config(AutoConfig.for_model("clip_vision_model", **BASE))) is CLIPVisionModel


@pytest.mark.parametrize("family", ["siglip_vision_model", "idefics2_vision"])
def test_a_new_size_may_come_while_a_model_generates(family: str) -> None:
    config = VisionConfig(config={"model_type": family, **BASE})
    tower, again = TransformersVisionEncoder(config).eval(), TransformersVisionEncoder(config).eval()
    again.load_state_dict(tower.state_dict())
    pixels = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        tokens = again(pixels).tokens
    assert torch.equal(tokens, tower(pixels).tokens)


def test_a_tower_is_examined_once_and_anew_where_anything_of_it_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    examine = tower.examine
    monkeypatch.setattr(tower, "examine", lambda twin, native: seen.append(native) or examine(twin, native))
    tower._tower_of.cache_clear()
    fields = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    fields |= {"num_attention_heads": 4, "image_size": 32, "patch_size": 8}

    def build(layers: list[int], **more: object) -> TransformersVisionEncoder:
        torch.manual_seed(0)
        return TransformersVisionEncoder(VisionConfig(config=fields | more, layers=layers))

    first, again, other = build([-1]), build([-1]), build([-2])
    assert seen == [(32, 32)]
    # Whether it was examined changes no weight, and nothing of one encoder is another's.
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert first.unused_parameters == again.unused_parameters < other.unused_parameters
    assert any("layers.2." in name for name in other.unused_parameters - first.unused_parameters)
    assert build([-1], image_size=48).output_shape.count == 36
    assert build([-1], num_hidden_layers=2).encoder_blocks[1:] and build([-1], hidden_act="relu") is not None
    assert seen == [(32, 32), (48, 48), (32, 32), (32, 32)]
