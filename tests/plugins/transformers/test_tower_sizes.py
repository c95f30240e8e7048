"""`transformers/vision` at other sizes than a tower's own: against the library's interpolation, done once and kept."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, BeitConfig, BeitModel, PixtralVisionModel, Siglip2VisionModel
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from vlmzoo_registry import AssemblyError, ConfigError
from vlmzoo_transformers.config import VisionConfig
from vlmzoo_transformers.vision import TransformersVisionEncoder

FIELDS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
SIZE = (48, 80)


def encoder(family: str, *, fields: dict | None = None, **options) -> TransformersVisionEncoder:
    torch.manual_seed(0)
    config = {"model_type": family, **FIELDS, **(fields or {})}
    built = TransformersVisionEncoder(VisionConfig(config=config, **options)).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built


def view(*size: int, images: int = 2) -> torch.Tensor:
    return torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(0))


# Absolute positions, interpolated

POSITIONS = {
    # family -> the parameter with the positions, how many of them are not patches', how the family interpolates
    "clip_vision_model": ("embeddings.position_embedding.weight", 1, {"mode": "bicubic", "align_corners": False}),
    "siglip_vision_model": ("embeddings.position_embedding.weight", 0, {"mode": "bicubic", "align_corners": False}),
    "vit": ("embeddings.position_embeddings", 1, {"mode": "bicubic", "align_corners": False}),
    "deit": ("embeddings.position_embeddings", 2, {"mode": "bicubic", "align_corners": False}),
    "dinov2": ("embeddings.position_embeddings", 1, {"mode": "bicubic", "align_corners": False}),
    "ijepa": ("embeddings.position_embeddings", 0, {"mode": "bicubic", "align_corners": False}),
    "blip_2_vision_model": ("embeddings.position_embedding", 1, {"mode": "bicubic", "align_corners": False}),
    "internvl_vision": ("embeddings.position_embeddings", 1, {"mode": "bicubic", "align_corners": False}),
}


@pytest.mark.parametrize("family", POSITIONS)
def test_positions_are_interpolated_as_if_the_tower_had_been_made_for_that_size(family: str) -> None:
    """A tower made for 64 pixels, given the interpolated positions as its own, without interpolation of its own."""
    name, leading, how = POSITIONS[family]
    pairs = {"image_size": [32, 32], "patch_size": [8, 8]} if family == "internvl_vision" else {}
    built = encoder(family, fields=pairs)
    larger = {"image_size": [64, 64]} if pairs else {"image_size": 64}
    made = encoder(family, fields=pairs | larger)
    state = dict(built.model.state_dict())
    whole = state[name].reshape(-1, 32)
    patches = functional.interpolate(whole[leading:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2), size=(8, 8), **how)
    positions = torch.cat([whole[:leading], patches.permute(0, 2, 3, 1).reshape(64, 32)])
    state[name] = positions.reshape(made.model.state_dict()[name].shape)
    made.model.load_state_dict({key: value for key, value in state.items() if key in made.model.state_dict()})
    with torch.no_grad():
        came, expected = built(view(64, 64)), made(view(64, 64))
    assert came.shape == built.shape_at((64, 64)) == made.output_shape
    torch.testing.assert_close(came.tokens, expected.tokens, rtol=0, atol=1e-6)
    assert not torch.allclose(came.tokens, encoder(family, fields=pairs)(view(64, 64)).tokens[:, :1])


@pytest.mark.parametrize("family", POSITIONS)
def test_the_option_and_the_view_give_the_same(family: str) -> None:
    pairs = {"image_size": [32, 32], "patch_size": [8, 8]} if family == "internvl_vision" else {}
    asked = encoder(family, fields=pairs, image_size=SIZE)
    built = encoder(family, fields=pairs)
    built.load_state_dict(asked.state_dict())
    assert (asked.transform.height, asked.transform.width) == SIZE
    assert asked.output_shape == built.shape_at(SIZE) and asked.output_shape.grid == (6, 10)
    with torch.no_grad():
        assert torch.equal(asked(view(*SIZE)).tokens, built(view(*SIZE)).tokens)
        assert asked(view(*SIZE)).shape == asked.output_shape
        options = {} if family in ("dinov2", "internvl_vision") else {"interpolate_pos_encoding": True}
        theirs = asked.model(pixel_values=view(*SIZE), output_hidden_states=True, **options).hidden_states[-1]
        assert torch.equal(asked(view(*SIZE)).tokens, theirs[:, -60:])


# Towers made for any size


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (16, 8), (96, 24)])
def test_pixtral_is_that_of_transformers_with_image_sizes(size: tuple[int, int]) -> None:
    """The reference is fed as its processor does it: images of different sizes, padded to the largest."""
    built = encoder("pixtral")
    reference = PixtralVisionModel(built.model.config).eval()
    reference.load_state_dict(built.model.state_dict())
    images = view(*size)
    other = view(40, 24, images=1)
    high, wide = max(size[0], 40), max(size[1], 24)
    batch = torch.zeros(3, 3, high, wide)
    batch[:2, :, : size[0], : size[1]] = images
    batch[2:, :, :40, :24] = other
    with torch.no_grad():
        theirs = reference(batch, image_sizes=[size, size, (40, 24)], output_hidden_states=True).hidden_states[-1][0]
        came = built(images)
    tokens = size[0] * size[1] // 64
    assert came.shape == built.shape_at(size) and came.grid == (size[0] // 8, size[1] // 8)
    assert (came.tokens - theirs[: 2 * tokens].reshape(2, tokens, 32)).abs().max() <= 1e-5
    with torch.no_grad():
        assert (built(other).tokens[0] - theirs[2 * tokens :]).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (16, 24), (8, 96)])
def test_idefics2_is_that_of_transformers_with_a_patch_mask(size: tuple[int, int]) -> None:
    built = encoder("idefics2_vision", fields={"image_size": 96}, final_norm=True)
    reference = Idefics2VisionTransformer(built.model.config).eval()
    reference.load_state_dict(built.model.state_dict())
    batch = torch.zeros(2, 3, 96, 96)
    batch[:, :, : size[0], : size[1]] = view(*size)
    rows, columns = size[0] // 8, size[1] // 8
    mask = torch.zeros(2, 12, 12, dtype=torch.bool)
    mask[:, :rows, :columns] = True
    with torch.no_grad():
        theirs = reference(batch, patch_attention_mask=mask).last_hidden_state.reshape(2, 12, 12, 32)
        came = built(view(*size))
    assert came.grid == (rows, columns)
    assert (came.tokens - theirs[:, :rows, :columns].flatten(1, 2)).abs().max() <= 1e-5


@pytest.mark.parametrize("size", [(32, 32), (48, 80), (16, 24)])
def test_siglip2_is_that_of_transformers_with_patches_and_padding(size: tuple[int, int]) -> None:
    built = encoder("siglip2_vision_model", fields={"num_patches": 16}, final_norm=True, image_size=32)
    reference = Siglip2VisionModel(built.model.config).eval()
    reference.load_state_dict(built.model.state_dict())
    rows, columns = size[0] // 8, size[1] // 8
    patches = torch.zeros(2, 100, 3 * 64)
    for number, image in enumerate(view(*size)):
        patches[number, : rows * columns] = torch.as_tensor(convert_image_to_patches(image.numpy(), 8))
    mask = torch.zeros(2, 100, dtype=torch.long)
    mask[:, : rows * columns] = 1
    with torch.no_grad():
        theirs = reference(patches, mask, torch.tensor([[rows, columns]] * 2)).last_hidden_state[:, : rows * columns]
        came = built(view(*size))
    assert came.grid == (rows, columns)
    assert (came.tokens - theirs).abs().max() <= 1e-5


def test_a_tower_that_takes_one_size_says_so() -> None:
    built = encoder("aimv2_vision_model")
    with pytest.raises(AssemblyError, match=r"`aimv2_vision_model`, made for 32x32 pixels, cannot take views of 64x64"):
        built.shape_at((64, 64))
    with pytest.raises(ConfigError, match=r"`aimv2_vision_model`, made for 32x32 pixels, cannot take views of 64x64"):
        encoder("aimv2_vision_model", image_size=64)


# What a tower without values leaves behind


def test_a_plan_leaves_nothing_in_the_caches_of_a_class() -> None:
    """BEiT keeps its position index in a cache of the class; made without values it would spoil every later run."""
    config = BeitConfig(**(FIELDS | {"image_size": 72}), use_relative_position_bias=True)  # a grid that no other test has
    with torch.device("meta"):
        TransformersVisionEncoder(VisionConfig(config=config.to_dict() | {"model_type": "beit"}))
    bias = BeitModel(config).layers[0].relative_position_bias
    assert not bias.generate_relative_position_index((9, 9)).is_meta


def test_the_reference_classes_are_what_auto_model_builds() -> None:
    for made in (PixtralVisionModel, Siglip2VisionModel):
        assert isinstance(AutoModel.from_config(AutoConfig.for_model(made.config_class.model_type, **FIELDS)), made)


# Order of tokens


def test_tokens_in_another_order_are_found() -> None:
    built = encoder("vit")
    built._tower.check_places(built.model)

    def by_column(module: nn.Module, args: object, tokens: torch.Tensor) -> torch.Tensor:
        return torch.cat([tokens[:, :1], tokens[:, 1:].reshape(-1, 4, 4, 32).transpose(1, 2).flatten(1, 2)], dim=1)

    built.model.embeddings.register_forward_hook(by_column)
    with pytest.raises(ConfigError, match=r"`vit` has the patch of row 0, column 3 at token 13, not at 4 where 1 leading"):
        built._tower.check_places(built.model)


def test_a_tower_that_masks_patches_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gives 5 tokens for 4x4 patches.*load the weights as .* `model_type: vit`"):
        encoder("vit_mae")
    with pytest.raises(ConfigError, match=r"`vit_mae` draws random numbers while it encodes .* \(of MAE, `model_type: vit`\)"):
        encoder("vit_mae", fields={"mask_ratio": 0.0})


def test_tokens_behind_the_patches_are_found() -> None:
    with pytest.raises(ConfigError, match=r"`yolos` has the patch of row 0, column 3 at token 4, not at 9 where 6 leading"):
        encoder("yolos", fields={"image_size": [32, 32], "num_detection_tokens": 5})
