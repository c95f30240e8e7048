"""A stage may speak in a style of its own: its labels, its training and its checkpoint do, and the next stage is free again."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_models import picture, section

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.labels import labels
from vlmzoo.manifest import read_manifest
from vlmzoo.model.tensors import own_tensors
from vlmzoo.training.train import train
from vlmzoo_registry import AssemblyError

CONTROL = {"name": "toy/language", "control_tokens": ["<|im_start|>", "<|im_end|>"]}


def recipe(folder: Path, templates: list[Any], model: str = "vicuna_v1", language: Any = CONTROL) -> dict[str, Any]:
    """One stage for each template; None: the model's."""
    picture(0).save(folder / "0.png")
    turns = [{"role": "user", "content": "<image>\nWhat is it?"}, {"role": "assistant", "content": "A cat."}]
    (folder / "rows.jsonl").write_text(json.dumps({"messages": turns, "images": ["0.png"]}) + "\n")
    stages = [
        {
            "name": f"s{number}",
            "objective": "instruct",
            "data": [{"name": "chat", "path": str(folder / "rows.jsonl"), "images": str(folder)}],
            "train": {"connector": {"lr": 1e-3}},
            "batch_size": 1,
            "steps": 2,
            **({} if template is None else {"template": template}),
        }
        for number, template in enumerate(templates)
    ]
    return {"model": {**section(language=language), "template": model}, "stages": stages}


def said(config: dict[str, Any], stage: str) -> str:
    (row,) = labels(config, stage=stage, samples=1).rows
    return "".join(piece.text for piece in row.pieces)


def test_labels_show_the_style_of_the_stage(tmp_path: Path) -> None:
    config = recipe(tmp_path, ["plain", None, "chatml_direct"])
    assert "ASSISTANT" not in said(config, "s0")
    assert "ASSISTANT: A cat." in said(config, "s1")
    assert "<|im_start|>assistant\nA cat.<|im_end|>" in said(config, "s2")
    assert [labels(config, stage=f"s{number}").template for number in range(3)] == [
        "tasks/plain",
        "tasks/vicuna_v1",
        "tasks/chatml_direct",
    ]


def test_a_stage_trains_as_if_its_style_were_the_model_s(tmp_path: Path) -> None:
    own = train(recipe(tmp_path, ["plain"]), output=tmp_path / "own")
    model_s = train(recipe(tmp_path, [None], model="plain"), output=tmp_path / "model")
    other = train(recipe(tmp_path, [None]), output=tmp_path / "other")
    assert own.losses == model_s.losses != other.losses
    assert all(
        one.equal(two) for one, two in zip(own_tensors(own.model).values(), own_tensors(model_s.model).values(), strict=True)
    )


def test_a_checkpoint_speaks_as_its_stage_did_and_the_next_stage_as_it_says(tmp_path: Path) -> None:
    config = recipe(tmp_path, ["chatml_direct", None])
    result = train(config, output=tmp_path / "run")
    first, last = tmp_path / "run/s0/checkpoint", tmp_path / "run/s1/checkpoint"
    prompts, stops = [], []
    for folder in (first, last):
        model = vlmzoo.load(folder)
        batch = model.processor(messages=[{"role": "user", "content": "What?"}])
        prompts.append(model.processor.tokenizer.decode(batch["input_ids"][0]))
        stops.append(model.generation_config.eos_token_id)
        assert read_manifest(folder).components["template"][0].name == f"tasks/{model.config.model['template']['name'][6:]}"
    assert prompts[0].endswith("<|im_start|>assistant\n") and prompts[1].endswith("ASSISTANT:")
    end = model.processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in stops[0] and stops[1] == model.processor.tokenizer.eos_token_id
    assert result.model.config.model == model.config.model
    # Taken up again from the first stage's checkpoint, the second comes to the same.
    again = recipe(tmp_path, ["chatml_direct", None])
    (last / "manifest.json").unlink()
    for file in sorted((tmp_path / "run/s1").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    repeated = train(again, output=tmp_path / "run")
    assert repeated.stages[1].losses == result.stages[1].losses


def test_a_style_that_the_tokenizer_cannot_write_is_refused_before_anything_trains(tmp_path: Path) -> None:
    config = recipe(tmp_path, [None, "chatml_direct"], language={"name": "toy/language"})
    with pytest.raises(AssemblyError, match=r"<\|im_start\|>"):
        vlmzoo.plan(config)
    with pytest.raises(AssemblyError, match=r"<\|im_start\|>"):
        train(config, output=tmp_path / "run")
    assert not list((tmp_path / "run").rglob("checkpoint"))


def test_the_short_form_and_the_long_one_are_one(tmp_path: Path) -> None:
    short = load_recipe(recipe(tmp_path, ["plain"]))
    assert short == load_recipe(recipe(tmp_path, [{"name": "tasks/plain"}]))
    assert load_recipe(short.dump()) == short
    assert load_recipe(recipe(tmp_path, [None])).stages[0].template is None
