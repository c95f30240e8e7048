"""A tower's weights come whole, from its own checkpoint or out of a whole model's, or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    Blip2Config,
    Blip2ForConditionalGeneration,
    CLIPModel,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    ViTModel,
)

from vlmzoo_registry import CheckpointError, ConfigError
from vlmzoo_transformers.config import VisionConfig
from vlmzoo_transformers.vision import TransformersVisionEncoder

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
}
OPT = {
    "model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 64,
    "word_embed_proj_dim": 32,
}  # fmt: skip
QFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
}
LLAMA = {"model_type": "llama", **TEXT}
STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def llava(tower: dict) -> PreTrainedModel:
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=tower, text_config=LLAMA, image_token_index=60))


def internvl() -> PreTrainedModel:
    tower = TOWER | {"image_size": [32, 32], "patch_size": [8, 8]}
    config = InternVLConfig(vision_config=tower, text_config={"model_type": "qwen2", **TEXT}, image_token_id=60)
    return InternVLForConditionalGeneration(config)


def idefics2() -> PreTrainedModel:
    perceiver = {
        "hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4, "resampler_head_dim": 8,
        "num_key_value_heads": 2,
    }  # fmt: skip
    config = Idefics2Config(vision_config=TOWER, perceiver_config=perceiver, text_config={"model_type": "mistral", **TEXT})
    return Idefics2ForConditionalGeneration(config)


WHOLE = {
    # model -> how it is made, where its tower is
    "CLIP": (
        lambda: CLIPModel(AutoConfig.for_model("clip", vision_config=TOWER, text_config=TEXT, projection_dim=8)),
        "vision_model",
    ),
    "LLaVA with CLIP": (lambda: llava({"model_type": "clip_vision_model", **TOWER}), "model.vision_tower"),
    "LLaVA with SigLIP": (lambda: llava({"model_type": "siglip_vision_model", **TOWER}), "model.vision_tower"),
    "LLaVA with Pixtral": (lambda: llava({"model_type": "pixtral", **TOWER}), "model.vision_tower"),
    "InternVL": (internvl, "model.vision_tower"),
    "BLIP-2": (
        lambda: Blip2ForConditionalGeneration(Blip2Config(vision_config=TOWER, qformer_config=QFORMER, text_config=OPT)),
        "vision_model",
    ),
    "Idefics2": (idefics2, "model.vision_model"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_tower_comes_out_of_a_whole_models_checkpoint(tmp_path: Path, name: str) -> None:
    make, place = WHOLE[name]
    torch.manual_seed(0)
    whole = make().eval()
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    whole.save_pretrained(tmp_path)
    built = TransformersVisionEncoder(VisionConfig(model=str(tmp_path), **STATISTICS)).eval()
    theirs = whole.get_submodule(place).state_dict()
    ours = built.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_llava_as_it_was_published_has_its_tower_two_levels_deeper(tmp_path: Path) -> None:
    """`vision_tower.vision_model.` before transformers 5."""
    whole = llava({"model_type": "clip_vision_model", **TOWER})
    whole.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    older = {
        key.replace("vision_tower.", "vision_tower.vision_model.").replace("model.vision_tower", "vision_tower"): value
        for key, value in state.items()
    }
    assert any(key.startswith("vision_tower.vision_model.encoder") for key in older)
    save_file(older, tmp_path / "model.safetensors", metadata={"format": "pt"})
    built = TransformersVisionEncoder(VisionConfig(model=str(tmp_path), **STATISTICS))
    theirs = whole.model.vision_tower.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in built.model.state_dict().items())


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    ViTModel(AutoConfig.for_model("vit", **TOWER)).save_pretrained(tmp_path)
    return tmp_path


def without(folder: Path, *names: str) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in state.items() if key not in names}, folder / "model.safetensors", {"format": "pt"})


def test_a_missing_tensor_is_named(vit: Path) -> None:
    without(vit, "layers.1.mlp.fc1.weight", "encoder.layer.1.intermediate.dense.weight")
    with pytest.raises(CheckpointError, match=r"has no weights for 1 of the \d+ tensors of `ViTModel`: `.*1.*`\. Give the"):
        TransformersVisionEncoder(VisionConfig(model=str(vit), **STATISTICS))


def test_a_missing_tensor_on_which_nothing_depends_is_none(vit: Path) -> None:
    without(vit, "pooler.dense.weight", "pooler.dense.bias")
    built = TransformersVisionEncoder(VisionConfig(model=str(vit), **STATISTICS))
    assert {"model.pooler.dense.weight", "model.pooler.dense.bias"} <= built.unused_parameters


def test_the_weights_of_another_architecture_are_refused(vit: Path) -> None:
    (vit / "config.json").write_text(AutoConfig.for_model("siglip_vision_model", **TOWER).to_json_string(use_diff=False))
    with pytest.raises(
        CheckpointError, match=r"has no weights for \d+ of the \d+ tensors of `SiglipVisionModel`: .* and \d+ more"
    ):
        TransformersVisionEncoder(VisionConfig(model=str(vit), **STATISTICS))


def test_a_config_that_is_no_vision_tower_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"`llama`: transformers has no class that makes a vision tower of pixels from `LlamaConfig`"
    ):
        TransformersVisionEncoder(VisionConfig(config={"model_type": "llama", **TEXT}, image_size=32))


def test_auto_model_is_asked_first() -> None:
    config = AutoConfig.for_model("vit", **TOWER)
    assert type(TransformersVisionEncoder(VisionConfig(config={"model_type": "vit", **TOWER})).model) is type(
        AutoModel.from_config(config)
    )
