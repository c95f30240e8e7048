"""`vlmzoo train` as a user runs it: stopped by a signal, run again, and refused; each with its exit code and one line."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vlmzoo.cli import main
from vlmzoo.manifest import verify
from vlmzoo.training.history import read_log
from vlmzoo.training.train import train
from vlmzoo.training.update import GlobalBatch

RECIPE = """
model:
  architecture: unified
  vision: {name: toy/vision}
  connector: connectors/mlp
  language: {name: toy/language}
  template: plain
stages:
  - name: align
    objective: caption
    data: [{name: captions, path: rows.jsonl, images: .}]
    train: {connector: {lr: 1.0e-3}}
    batch_size: 2
    steps: 100000
    log_every: 1
"""

# With dropout, as it is by default.
GPT2 = {
    "model_type": "gpt2",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "vocab_size": 300,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"image": f"{colour}.png", "caption": f"a {colour} square"} for colour in ("red", "blue")]
    for colour in ("red", "blue"):
        Image.new("RGB", (9, 9), colour).save(tmp_path / f"{colour}.png")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command, run in this process."""
    monkeypatch.setattr(sys, "argv", ["vlmzoo", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest's own handlers stay
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start(recipe: Path, output: Path, *overrides: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-c", "from vlmzoo.cli import main; main()", "train", str(recipe), *overrides, "-o", str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait(process: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    while not until():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.001)


def steps_in(stage: Path) -> int:
    """How many steps the log holds, while it is written."""
    log = stage / "log.jsonl"
    return log.read_text().count('"kind": "step"') if log.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_step_and_says_how_to_go_on(number: signal.Signals, code: int, recipe: Path, tmp_path: Path) -> None:
    stage = tmp_path / "run" / "align"
    process = start(recipe, tmp_path / "run")
    wait(process, lambda: steps_in(stage) >= 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    done = steps_in(stage)
    assert [line for line in said.splitlines() if line] == [
        f"interrupted; stage `align` is saved after step {done} of 100000: the same command goes on from there"
    ]
    assert verify(stage / "resume").extra["step"] == done
    assert sorted(file.name for file in stage.iterdir()) == ["log.jsonl", "resume"]
    process = start(recipe, tmp_path / "run")
    wait(process, lambda: steps_in(stage) > done)
    process.kill()
    process.communicate()
    assert [record["step"] for record in read_log(stage).steps] == list(range(steps_in(stage)))


@pytest.mark.slow
def test_killed_three_times_and_finished(recipe: Path, tmp_path: Path) -> None:
    """SIGKILL: before the first point, between two, and inside of the writing of one; with dropout, in the second stage too."""
    language = "model.language={name: transformers/causal-lm, config: " + json.dumps(GPT2) + "}"
    overrides = [
        language,
        "stages.0.train.language={mode: last, layers: 1, lr: 1.0e-3}",
        "stages.0.steps=150",
        "stages.0.save_every=20",
    ]
    stage = tmp_path / "run" / "align"
    partial = lambda: any(stage.glob(".resume.*.partial"))  # noqa: E731
    for moment in (
        lambda: steps_in(stage) >= 5,
        lambda: (stage / "resume").exists() and steps_in(stage) >= 27,
        lambda: steps_in(stage) >= 45 and partial(),
    ):
        process = start(recipe, tmp_path / "run", *overrides)
        wait(process, moment)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = start(recipe, tmp_path / "run", *overrides)
    said, wrong = process.communicate(timeout=300)
    assert (process.returncode, wrong) == (0, "")
    assert "in 150 steps." in said
    straight = train(recipe, overrides=overrides, output=tmp_path / "straight")
    for file in straight.checkpoint.iterdir():
        assert file.read_bytes() == (stage / "checkpoint" / file.name).read_bytes(), file.name
    logs = [read_log(folder / "align") for folder in (tmp_path / "run", tmp_path / "straight")]
    assert logs[0].losses == logs[1].losses
    timeless = [[{k: v for k, v in step.items() if k not in ("seconds", "peak_memory")} for step in log.steps] for log in logs]
    assert timeless[0] == timeless[1]
    assert sorted(file.name for file in stage.iterdir() if not file.name.startswith("log.")) == ["checkpoint", "loss.svg"]


def test_trained_once_and_loaded_the_second_time(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", str(recipe), "stages.0.steps=2", "-o", str(tmp_path / "run"))
    checkpoint = tmp_path / "run" / "align" / "checkpoint"
    assert run(monkeypatch, *arguments) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "What trains in stage `align`" in said.out
    assert "What moved" in said.out
    assert " in 2 steps." in said.out
    assert f"Checkpoint: {checkpoint}" in said.out
    written = (checkpoint / "manifest.json").stat().st_mtime_ns
    assert run(monkeypatch, *arguments) == 0
    again = capfd.readouterr()
    assert again.err == ""
    assert again.out.startswith(f"Stage `align` is finished: {checkpoint}\n")
    assert "What trains" not in again.out
    assert again.out.splitlines()[-2:] == said.out.splitlines()[-2:]
    assert (checkpoint / "manifest.json").stat().st_mtime_ns == written
    assert run(monkeypatch, "train", str(recipe), "stages.0.steps=3", "-o", str(tmp_path / "run")) == 6
    assert capfd.readouterr().err == (
        f"error: `{tmp_path / 'run'}` holds what another recipe has trained (align): choose another `--output`, go back to "
        "that recipe, or remove the folder\n  - `stages.0.steps`: 2 there, 3 in this recipe\n"
    )
    assert run(monkeypatch, "generate", str(checkpoint), "-i", str(tmp_path / "red.png")) == 0
    assert capfd.readouterr().err == ""


def test_not_enough_memory(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def exhausted(self: object, rows: object) -> None:
        raise MemoryError

    monkeypatch.setattr(GlobalBatch, "backward", exhausted)
    assert run(monkeypatch, "train", str(recipe), "-o", str(tmp_path / "run")) == 6
    assert capfd.readouterr().err == (
        "error: stage `align`, step 0: not enough memory (MemoryError); lower `micro_batch` (=2), which needs less and makes "
        "the same update\n"
    )


def test_a_loss_that_is_no_number(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = ("stages.0.train.connector.lr=1.0e+30", "stages.0.steps=50", "stages.0.schedule=constant")
    assert run(monkeypatch, "train", str(recipe), *overrides, "-o", str(tmp_path / "run")) == 3
    said = capfd.readouterr().err
    assert said.startswith("error: step ")
    assert "the weights are untouched. Lower the learning rate, or look at these rows: " in said
    assert f"{tmp_path / 'rows.jsonl'}:1" in said
    assert said.count("\n") == 1
