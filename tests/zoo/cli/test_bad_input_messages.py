"""What a user sees of each kind of bad input: the whole text, the exit code, and a traceback only on request.

The command line runs inside this process: what is checked is its last stage, and each case would otherwise cost a start.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vlmzoo
from vlmzoo.cli import main

MODEL = """model:
  architecture: unified
  vision: {name: toy/vision}
  connector: [{name: connectors/mlp, depth: 2}]
  language: {name: toy/language}
  template: plain
"""

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `vlmzoo` with these arguments; gives its exit code and what it wrote on stderr."""
    monkeypatch.delenv("VLMZOO_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vlmzoo", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capfd.readouterr().err

    return run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small checkpoint."""
    torch.manual_seed(0)
    path = tmp_path / "model.yaml"
    path.write_text(MODEL)
    vlmzoo.build(path).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def written(tmp_path: Path, old: str = "", new: str = "") -> str:
    """The model file with one thing replaced."""
    assert old in MODEL
    path = tmp_path / "recipe.yaml"
    path.write_text(MODEL.replace(old, new) if old else MODEL)
    return str(path)


def test_an_unknown_key(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, "depth: 2", "dept: 2")
    code, text = command("plan", path)
    assert code == 2
    assert text == (
        f"error: {path} cannot be used\n"
        f"  - {path}:4:38: model.connector.0.dept: unknown key; did you mean `depth`? (connectors/mlp knows: depth, "
        "activation, output_activation, gated, hidden_width, hidden_factor, width, bias, input_norm, output_norm, "
        "output_scale, norm_epsilon)\n"
    )


def test_a_wrong_type(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, "depth: 2", "depth: two")
    code, text = command("plan", path)
    assert (code, text) == (
        2,
        f"error: {path} cannot be used\n  - {path}:4:45: model.connector.0.depth: must be a whole number (is the text `two`)\n",
    )


def test_an_unknown_component(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, "connectors/mlp", "connectors/mpl")
    code, text = command("plan", path)
    assert code == 2
    assert (
        f"{path}:4:22: model.connector.0.name: no connector is named `connectors/mpl`; did you mean `connectors/mlp`?" in text
    )
    assert f"(`vlmzoo list --kind connector` shows all {len(vlmzoo.components('connector'))})" in text


def test_parts_that_do_not_fit_say_every_reason(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        MODEL.replace("unified", "cross_attention")
        .replace("toy/vision", "toy/vision, image_size: 24")
        .replace("{name: toy/language}", "{name: transformers/causal-lm, model: nobody/nothing}")
    )
    code, text = command("plan", str(path))
    assert code == 2
    assert "no transformers config was found on this machine" in text
    path.write_text(MODEL.replace("connectors/mlp, depth: 2", "connectors/cross-attention"))
    code, text = command("plan", str(path))
    assert (code, text) == (
        2,
        "error: the parts do not fit together\n"
        "  - `connector.0` (connectors/cross-attention) builds blocks in the decoder: use `architecture: cross_attention`, or "
        "another connector\n",
    )


def test_slots_and_features_that_do_not_match(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    code, text = command("generate", str(checkpoint), "--image", str(tmp_path / "red.png"), "--prompt", "<image><image>")
    assert (code, text) == (3, "error: row 0: 2 `<image>` in the text, but 1 images: give one for each\n")


def test_a_damaged_checkpoint(command: Command, checkpoint: Path) -> None:
    file = checkpoint / "connector.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    code, text = command("generate", str(checkpoint))
    assert (code, text) == (
        5,
        f"error: `{checkpoint}` is damaged; restore it from a copy or take an earlier checkpoint\n"
        "  - connector.safetensors: its SHA-256 differs from the recorded one (damaged, or another file)\n",
    )
    assert command("generate", str(checkpoint / "nothing")) == (5, f"error: `{checkpoint}/nothing`: no such folder\n")


def test_a_checkpoint_of_other_parts(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(MODEL.replace("toy/language", "toy/language, width: 48"))
    other = vlmzoo.build(path)
    before = [p.detach().clone() for p in other.parameters()]
    with pytest.raises(vlmzoo_error("CheckpointError")) as error:
        vlmzoo.load_part(other, "connector", checkpoint)
    assert "its connector was made for other parts" in str(error.value)
    assert '"width": 32' in str(error.value) and '"width": 48' in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def vlmzoo_error(name: str) -> Any:
    """A class of `vlmzoo_registry.errors`."""
    from vlmzoo_registry import errors

    return getattr(errors, name)


def test_a_part_of_a_broken_plugin(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "my_part.py"
    plugin.write_text("import package_that_nobody_has\n")
    monkeypatch.setenv("VLMZOO_PLUGINS", "")
    path = written(tmp_path, "connectors/mlp, depth: 2", "my_part/thing")
    code, text = command("--plugin", str(plugin), "plan", path)
    assert code == 4
    assert "ModuleNotFoundError: No module named 'package_that_nobody_has'" in text
    assert "my_part" in text and "Traceback" not in text


def test_a_traceback_only_with_debug(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "depth: 2", "dept: 2")
    assert "Traceback" not in command("plan", path)[1]
    monkeypatch.setenv("VLMZOO_DEBUG", "0")
    code, text = command("--debug", "plan", path)
    assert code == 2
    assert "Traceback (most recent call last)" in text and "did you mean `depth`?" in text


def test_a_missing_image_and_a_bad_row(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    code, text = command("generate", str(checkpoint), "--image", str(tmp_path / "absent.png"))
    assert (code, text) == (
        3,
        f"error: --image: `{tmp_path}/absent.png` is not a file: correct the path or the image folder\n",
    )
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "caption": "fine"}\n{"image": "a.png"}\n')
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a.png")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        MODEL + "stages:\n"
        "  - {name: align, objective: caption, data: [{name: captions, path: rows.jsonl, images: .}],\n"
        "     train: {connector: {lr: 1.0e-3}}, batch_size: 2, steps: 1}\n"
    )
    code, text = command("train", str(recipe), "--output", str(tmp_path / "run"))
    assert code == 3
    assert f"{tmp_path}/rows.jsonl:2: caption:" in text and "Traceback" not in text
