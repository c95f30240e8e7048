"""Architectures that come with the plugin: their figures are the published ones, and a model's own files come before them."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, MllamaVisionModel

from vlmzoo_registry import ConfigError
from vlmzoo_registry.notes import Note
from vlmzoo_transformers.causal_lm import TransformersCausalLM
from vlmzoo_transformers.config import CausalLMConfig, VisionConfig
from vlmzoo_transformers.known import FOLDER, known_architecture
from vlmzoo_transformers.vision import TransformersVisionEncoder

# Parameters as their authors and the hub's pages have them.
CAUSAL, SEQUENCES, TOWER, MLLAMA = AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModel, MllamaVisionModel
PUBLISHED = {
    "CohereForAI/aya-expanse-8b": (CAUSAL, 8_028_033_024),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": (CAUSAL, 1_711_376_384),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (CAUSAL, 134_515_008),
    "HuggingFaceTB/SmolLM2-360M-Instruct": (CAUSAL, 361_821_120),
    "NousResearch/Hermes-2-Theta-Llama-3-70B": (CAUSAL, 70_553_706_496),
    "NousResearch/Nous-Hermes-2-Yi-34B": (CAUSAL, 34_388_917_248),
    "OpenGVLab/InternVL3-2B-hf": (TOWER, 304_012_288),
    "OpenGVLab/InternVL3-38B-hf": (TOWER, 5_536_496_000),
    "Qwen/Qwen1.5-7B": (CAUSAL, 7_721_324_544),
    "Qwen/Qwen2-0.5B-Instruct": (CAUSAL, 494_032_768),
    "Qwen/Qwen2-72B-Instruct": (CAUSAL, 72_706_203_648),
    "Qwen/Qwen2-7B": (CAUSAL, 7_615_616_512),
    "Qwen/Qwen2-7B-Instruct": (CAUSAL, 7_615_616_512),
    "Qwen/Qwen2.5-0.5B-Instruct": (CAUSAL, 494_032_768),
    "Qwen/Qwen2.5-32B-Instruct": (CAUSAL, 32_763_876_352),
    "Qwen/Qwen2.5-3B-Instruct": (CAUSAL, 3_085_938_688),
    "Qwen/Qwen2.5-72B-Instruct": (CAUSAL, 72_706_203_648),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (CAUSAL, 1_100_048_384),
    "anas-awadalla/mpt-1b-redpajama-200b": (CAUSAL, 1_311_344_640),
    "deepseek-ai/deepseek-llm-7b-base": (CAUSAL, 6_910_365_696),
    "distilbert/distilgpt2": (CAUSAL, 81_912_576),
    "facebook/opt-1.3b": (CAUSAL, 1_315_758_080),
    "facebook/opt-2.7b": (CAUSAL, 2_651_596_800),
    "facebook/opt-6.7b": (CAUSAL, 6_658_473_984),
    # The heads of FLAN-T5 are weights of their own (2,849,757,184 and 11,135,332,352 in all); transformers 5 ties them.
    "google/flan-t5-xl": (SEQUENCES, 2_849_757_184 - 32128 * 2048),
    "google/flan-t5-xxl": (SEQUENCES, 11_135_332_352 - 32128 * 4096),
    "google/gemma-2-2b": (CAUSAL, 2_614_341_888),
    "google/gemma-2b": (CAUSAL, 2_506_172_416),
    "google/gemma-3-4b-pt": (CAUSAL, 3_880_263_168),
    "google/siglip-large-patch16-384": (TOWER, 316_283_904),
    "google/siglip-so400m-patch14-384": (TOWER, 428_225_600),
    "google/vit-base-patch16-224-in21k": (TOWER, 86_389_248),
    "huggyllama/llama-65b": (CAUSAL, 65_285_660_672),
    "huggyllama/llama-7b": (CAUSAL, 6_738_415_616),
    "lmsys/vicuna-13b-v1.5": (CAUSAL, 13_015_864_320),
    "lmsys/vicuna-7b-v1.1": (CAUSAL, 6_738_415_616),
    "lmsys/vicuna-7b-v1.3": (CAUSAL, 6_738_415_616),
    "lmsys/vicuna-7b-v1.5": (CAUSAL, 6_738_415_616),
    "meta-llama/Llama-2-7b-chat-hf": (CAUSAL, 6_738_415_616),
    "meta-llama/Llama-2-7b-hf": (CAUSAL, 6_738_415_616),
    "meta-llama/Llama-3.1-8B": (CAUSAL, 8_030_261_248),
    "meta-llama/Llama-3.1-8B-Instruct": (CAUSAL, 8_030_261_248),
    "meta-llama/Llama-3.2-11B-Vision-Instruct": (MLLAMA, 863_567_379),
    "meta-llama/Meta-Llama-3-8B-Instruct": (CAUSAL, 8_030_261_248),
    "microsoft/phi-2": (CAUSAL, 2_779_683_840),
    "mistralai/Mistral-7B-Instruct-v0.2": (CAUSAL, 7_241_732_096),
    "mistralai/Mistral-7B-v0.1": (CAUSAL, 7_241_732_096),
    "mistralai/Mistral-Nemo-Instruct-2407": (CAUSAL, 12_247_782_400),
    "mistralai/Mistral-Small-24B-Instruct-2501": (CAUSAL, 23_572_403_200),
    "mistral-community/pixtral-12b": (TOWER, 403_489_792),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": (TOWER, 403_305_472),
    "mosaicml/mpt-7b": (CAUSAL, 6_649_286_656),
    "mtgv/MobileLLaMA-1.4B-Chat": (CAUSAL, 1_364_297_728),
    "mtgv/MobileLLaMA-2.7B-Chat": (CAUSAL, 2_701_560_320),
    "openai-community/gpt2": (CAUSAL, 124_439_808),
    "openai/clip-vit-large-patch14": (TOWER, 303_179_776),
    "openai/clip-vit-large-patch14-336": (TOWER, 303_507_456),
    "stabilityai/stablelm-2-zephyr-1_6b": (CAUSAL, 1_644_515_328),
    "togethercomputer/RedPajama-INCITE-Base-3B-v1": (CAUSAL, 2_775_864_320),
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
        described = AutoConfig.for_model(config.pop("model_type"), **config)
        made = factory._from_config(described) if factory is MLLAMA else factory.from_config(described)
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
