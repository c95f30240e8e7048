"""`vlmzoo train` as a user runs it: stopped by a signal, run again, and refused; each with its exit code and one line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from vlmzoo.cli import main

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


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_a_line_that_says_what_is_lost(
    number: signal.Signals, code: int, recipe: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from vlmzoo.cli import main; main()", "train", str(recipe), "-o", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "align" / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    lines = [line for line in said.splitlines() if line]
    assert lines[-1].startswith("interrupted; stage `align` stopped after step ")
    assert lines[-1].endswith(
        " of 100000, before its checkpoint was whole: what it learnt is lost, and nothing else is damaged"
    )
    told = int(lines[-1].split(" after step ")[1].split()[0])
    assert told in (len(steps), len(steps) + 1)  # the signal may come between a step and its line
    assert "Traceback" not in said
    assert sorted(file.name for file in log.parent.iterdir()) == ["log.jsonl"]


def test_trained_once_and_refused_the_second_time(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", str(recipe), "stages.0.steps=2", "-o", str(tmp_path / "run"))
    assert run(monkeypatch, *arguments) == 0
    said = capfd.readouterr()
    assert said.err == ""
    assert "What trains" in said.out
    assert " in 2 steps." in said.out
    assert f"Checkpoint: {tmp_path / 'run' / 'align' / 'checkpoint'}" in said.out
    assert run(monkeypatch, *arguments) == 6
    assert capfd.readouterr().err == (
        f"error: `{tmp_path / 'run' / 'align'}` holds a finished stage already: choose another `--output`, or remove it "
        "to train again\n"
    )
    assert run(monkeypatch, "generate", str(tmp_path / "run" / "align" / "checkpoint"), "-i", str(tmp_path / "red.png")) == 0
    assert capfd.readouterr().err == ""


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
