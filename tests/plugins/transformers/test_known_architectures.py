"""Architectures that come with the plugin: their figures are the published ones, and a model's own files come before them."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from vlmzoo_registry import ConfigError
from vlmzoo_registry.notes import Note
from vlmzoo_transformers.causal_lm import TransformersCausalLM
from vlmzoo_transformers.config import CausalLMConfig, VisionConfig
from vlmzoo_transformers.known import FOLDER, known_architecture
from vlmzoo_transformers.vision import TransformersVisionEncoder

# Parameters as their authors and the hub's pages have them.
PUBLISHED = {
    "openai-community/gpt2": (AutoModelForCausalLM, 124_439_808),
    "distilbert/distilgpt2": (AutoModelForCausalLM, 81_912_576),
    "google/vit-base-patch16-224-in21k": (AutoModel, 86_389_248),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has downloaded nothing, and may not."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def downloaded(cache: Path, model: str, **files: dict[str, Any]) -> None:
    """Files of a model, as a download leaves them."""
    repository = cache / f"models--{model.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    snapshot = repository / "snapshots" / ("1" * 40)
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        (snapshot / f"{name}.json").write_text(json.dumps(content))


def test_every_file_is_checked_here():
    assert {file.stem.replace("--", "/") for file in FOLDER.glob("*.json")} == set(PUBLISHED)


@pytest.mark.parametrize("model", list(PUBLISHED))
def test_figures_are_the_published_ones(model):
    with pytest.warns(Note, match="is described from the figures that come with vlmzoo"):
        fields = known_architecture(model)
    assert fields is not None
    factory, parameters = PUBLISHED[model]
    config = dict(fields["config"])
    with torch.device("meta"):
        made = factory.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters


def test_a_plan_takes_them_where_the_machine_has_none():
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        language = TransformersCausalLM.resolve(CausalLMConfig(model="distilbert/distilgpt2"))
        vision = TransformersVisionEncoder.resolve(VisionConfig(model="google/vit-base-patch16-224-in21k"))
    assert (language.model, language.config["n_layer"], language.tokenizer) == (None, 6, "distilbert/distilgpt2")
    assert (vision.model, vision.image_size, vision.mean, vision.std) == (None, 224, (0.5,) * 3, (0.5,) * 3)
    assert (vision.interpolation, vision.resize) == ("bilinear", "squash")
    assert {str(note.message).partition("`")[2].partition("`")[0] for note in notes} == {
        "distilbert/distilgpt2",
        "google/vit-base-patch16-224-in21k",
    }


def test_files_of_the_model_come_first(cache):
    downloaded(cache, "distilbert/distilgpt2", config={"model_type": "gpt2", "n_layer": 3})
    downloaded(
        cache,
        "google/vit-base-patch16-224-in21k",
        config={"model_type": "vit", "image_size": 64, "num_hidden_layers": 2},
        preprocessor_config={"image_processor_type": "ViTImageProcessor", "image_mean": [0.1] * 3, "image_std": [0.2] * 3},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        language = TransformersCausalLM.resolve(CausalLMConfig(model="distilbert/distilgpt2"))
        vision = TransformersVisionEncoder.resolve(VisionConfig(model="google/vit-base-patch16-224-in21k"))
    assert language.config["n_layer"] == 3
    assert (vision.image_size, vision.mean, vision.std) == (64, (0.1,) * 3, (0.2,) * 3)


def test_weights_are_never_made_of_them():
    """What is described here has no weights: a build says that the model is not here, it does not train one at random."""
    with pytest.raises((ConfigError, OSError), match=r"openai-community/gpt2|huggingface"):
        TransformersCausalLM(CausalLMConfig(model="openai-community/gpt2"))
    with pytest.raises((ConfigError, OSError)):
        TransformersVisionEncoder(VisionConfig(model="google/vit-base-patch16-224-in21k"))


@pytest.mark.parametrize("model", ["openai-community/gpt2-medium", "../architectures/x", "gpt2"])
def test_others_are_refused_as_before(model):
    with pytest.raises(ConfigError, match="no transformers config was found on this machine"):
        TransformersCausalLM.resolve(CausalLMConfig(model=model))
