"""`vlmzoo export` as a user runs it."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlmzoo
from vlmzoo.cli import main

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


def checkpoint(folder: Path, depth: int) -> Path:
    model = vlmzoo.build(
        {
            "architecture": "unified",
            "vision": {"name": "transformers/vision", "config": CLIP},
            "connector": {"name": "connectors/mlp", "depth": depth},
            "language": {"name": "transformers/causal-lm", "config": LLAMA},
            "template": "plain",
        }
    )
    model.save_pretrained(folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["vlmzoo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_checkpoint_becomes_a_folder_that_transformers_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path / "checkpoint", depth=2)
    assert run(monkeypatch, "export", str(source), str(tmp_path / "one")) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.startswith("LlavaForConditionalGeneration in ")
    assert f'AutoModelForImageTextToText.from_pretrained("{tmp_path / "one"}")' in said.out
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path / "one")).__name__ == "LlavaForConditionalGeneration"
    assert AutoProcessor.from_pretrained(tmp_path / "one").image_token == "<image>"

    assert run(monkeypatch, "export", str(source), str(tmp_path / "two"), "--json") == 0
    assert json.loads(capfd.readouterr().out) == {
        "folder": str(tmp_path / "two"),
        "class": "LlavaForConditionalGeneration",
        "difference": 0.0,
    }

    assert run(monkeypatch, "export", str(source), str(tmp_path / "two")) == 5
    assert capfd.readouterr().err.startswith(f"error: `{tmp_path / 'two'}` is not empty: ")


def test_what_no_class_can_express_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path / "checkpoint", depth=3)
    assert run(monkeypatch, "export", str(source), str(tmp_path / "out")) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: no class of transformers that the zoo knows can express this model\n  - Llava: ")
    assert "`depth` is 3, and Llava has 2" in said.err
    assert not (tmp_path / "out").exists()
