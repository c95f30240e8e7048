"""`vlmzoo.to_transformers`: every class that has a processor of the zoo's kind, what is refused, and the folder it writes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exchange_models import CLIP, LLAMA, SECTIONS, picture, section, shaken, zoo
from peft import LoraConfig
from safetensors.torch import load_file

import vlmzoo
from vlmzoo.adapters import add_adapters, linear_layers
from vlmzoo.exchange.classes import EXCHANGES
from vlmzoo.exchange.export import to_transformers
from vlmzoo.exchange.image_processors import image_processor
from vlmzoo.exchange.llava import LlavaExchange
from vlmzoo.exchange.names import Names
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, CheckpointError, Turn

SCRIPT = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0].startswith("vlmzoo"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

picture, prompts = sys.argv[1], json.loads(sys.argv[2])
classes = []
for folder, prompt in prompts.items():
    processor = AutoProcessor.from_pretrained(folder)
    # Where torchvision is installed it is taken for the images, and rounds otherwise than Pillow.
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    inputs = processor(text=[prompt], images=[Image.open(picture)], return_tensors="pt")
    inputs.pop("mm_token_type_ids", None)
    with torch.inference_mode():
        logits = model(**inputs).logits
        ids = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)[:, -6:]
    save_file({"logits": logits, "ids": ids.contiguous()}, folder + "/said.safetensors")
    classes.append(type(model).__name__)
print(json.dumps({"classes": classes, "foreign": [name for name in sys.modules if name.startswith("vlmzoo")]}))
"""


@pytest.mark.parametrize("name", SECTIONS)
def test_model_and_processor_are_given_and_prove_the_same(name: str) -> None:
    exported = to_transformers(zoo(name))
    assert type(exported.model).__name__ == f"{name}ForConditionalGeneration"
    assert type(exported.processor).__name__ == f"{name}Processor"
    assert exported.difference == 0.0


@pytest.mark.slow
def test_the_folders_load_where_vlmzoo_does_not_and_say_the_same(tmp_path: Path) -> None:
    """All in one process, as the frameworks take longer to import than the models to speak."""
    picture().save(tmp_path / "picture.png")
    models, prompts = {}, {}
    for name in SECTIONS:
        models[name] = zoo(name)
        to_transformers(models[name]).save_pretrained(tmp_path / name)
        text = models[name].processor.template.render([Turn("user", "<image> what?")], prompt=True).text
        prompts[str(tmp_path / name)] = text.replace("<image>", "") if name == "Blip2" else text
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "picture.png"), json.dumps(prompts)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    expected = [f"{name}ForConditionalGeneration" for name in SECTIONS]
    assert json.loads(run.stdout.splitlines()[-1]) == {"classes": expected, "foreign": []}
    for name, model in models.items():
        batch = model.processor(text="<image> what?", images=picture())
        said = load_file(tmp_path / name / "said.safetensors")
        with torch.inference_mode():
            assert torch.equal(model(**batch).logits, said["logits"]), name
            ids = model.generate(**batch, max_new_tokens=6, min_new_tokens=6, do_sample=False)[:, -6:]
        assert torch.equal(ids, said["ids"]), name


def test_where_no_class_fits_every_reason_is_said_for_every_class() -> None:
    model = vlmzoo.build(section(CLIP, {"name": "connectors/resampler", "queries": 3, "depth": 1, "heads": 2, "head_width": 8}))
    with pytest.raises(AssemblyError) as error:
        to_transformers(model)
    assert error.value.message == "no class of transformers that the zoo knows can express this model"
    reasons = error.value.reasons
    assert "Llava: `connector` is `connectors/resampler`, and Llava has `connectors/mlp`" in reasons
    assert "LlavaNext: `layout` is `layouts/whole`, and LlavaNext has `layouts/anyres`" in reasons
    assert "Mllama: `architecture` is unified, and Mllama is cross_attention" in reasons
    assert {reason.partition(":")[0] for reason in reasons} == {exchange.name for exchange in EXCHANGES}


def test_an_option_that_the_class_does_not_have_is_named_with_both_values() -> None:
    model = vlmzoo.build(section(CLIP, {"name": "connectors/mlp", "depth": 3, "input_norm": "layer"}))
    with pytest.raises(AssemblyError) as error:
        to_transformers(model)
    assert "Llava: `connector.0` (connectors/mlp): `depth` is 3, and Llava has 2" in error.value.reasons
    assert "Llava: `connector.0` (connectors/mlp): `input_norm` is layer, and Llava has none" in error.value.reasons


def test_adapters_are_refused_until_they_are_merged() -> None:
    model = zoo("Llava")
    layers = [name for name in linear_layers(model.language, [model.language]) if name.endswith("q_proj")]
    model.adapters["language"] = add_adapters(model.language, LoraConfig(r=2, target_modules=layers), layers)
    with pytest.raises(AssemblyError) as error:
        to_transformers(model)
    assert error.value.reasons == ("`language` has adapters: merge them first",)


def test_what_the_tokenizer_has_added_goes_with_it() -> None:
    """The image token is a row more than the section of the language model says."""
    model = vlmzoo.build(
        section(
            CLIP,
            {"name": "connectors/mlp"},
            language={"name": "transformers/causal-lm", "config": {**LLAMA, "vocab_size": 259}},
        )
    )
    exported = to_transformers(shaken(model))
    assert exported.model.config.text_config.vocab_size == 260
    assert exported.processor.tokenizer.convert_tokens_to_ids("<image>") == 259 == exported.model.config.image_token_id


@pytest.mark.parametrize("name", ["InternVL", "Idefics2", "Idefics3"])
def test_the_tokenizer_of_the_model_is_left_as_it_was(name: str) -> None:
    """Some processors add tokens to the one they are given."""
    model = zoo(name)
    before = model.processor.tokenizer.get_vocab()
    to_transformers(model)
    assert model.processor.tokenizer.get_vocab() == before


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        to_transformers(zoo("Llava")).save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_weights_in_the_wrong_places_are_seen_by_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    names = LlavaExchange.names

    def pairs(self: LlavaExchange, config: object) -> Names:
        kept = names(self, config).pairs  # type: ignore[arg-type]
        here = "language.model.model.layers"
        return Names((*kept, ("model.language_model.layers.0", f"{here}.1"), ("model.language_model.layers.1", f"{here}.0")))

    monkeypatch.setattr(LlavaExchange, "names", pairs)
    with pytest.raises(AssemblyError, match="with the same weights Llava and the zoo model give other logits"):
        to_transformers(zoo("Llava"))


def test_another_transform_is_seen_by_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    model: VLM = vlmzoo.build(section({**CLIP, "resize": "crop"}, {"name": "connectors/mlp"}))
    monkeypatch.setattr(
        "vlmzoo.exchange.llava.image_processor", lambda transform: image_processor(replace(transform, resize="squash"))
    )
    with pytest.raises(AssemblyError) as error:
        to_transformers(model)
    assert error.value.message == "the processor of Llava and that of the zoo model make other inputs"
    assert error.value.reasons[0].startswith("`pixel_values`: they differ by ")
