"""`vlmzoo labels` as a user calls it: brackets in a pipe, colour in a terminal, JSON for programs, errors with their codes."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vlmzoo.cli import main

RECIPE = """
model:
  architecture: unified
  vision: toy/vision
  connector: toy/connector
  language: toy/language
  template: {name: vicuna_v1, system: null}
stages:
  - name: align
    objective: instruct
    data: [{name: captions, path: rows.jsonl, images: .}]
    train: {connector: {lr: 1.0e-3}}
    batch_size: 1
    steps: 1
  - name: chat
    objective: instruct
    data: [{name: chat, path: chat.jsonl, images: .}]
    train: {connector: {lr: 1.0e-3}}
    batch_size: 1
    steps: 1
"""


@pytest.fixture
def folder(vlmzoo):
    Image.new("RGB", (8, 8), "red").save(vlmzoo.folder / "red.png")
    (vlmzoo.folder / "recipe.yaml").write_text(RECIPE)
    (vlmzoo.folder / "rows.jsonl").write_text('{"image": "red.png", "caption": "red"}\n')
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    (vlmzoo.folder / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    return vlmzoo.folder


@pytest.fixture
def here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command in this process, which has loaded the frameworks already."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["vlmzoo", *arguments])
            patch.setattr("signal.signal", lambda *_: None)  # pytest's own handlers stay
            for name, value in variables.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), *capfd.readouterr())

    return run


def test_labels_in_a_pipe_and_in_colour(vlmzoo, folder, here):
    piped = vlmzoo("labels", "recipe.yaml")
    assert piped.returncode == 0, piped.stderr
    assert "USER: <image x 16> ASSISTANT:⟦ red<eos>⟧" in piped.stdout
    assert "1 sample: 38 tokens, 5 supervised (13%)" in piped.stdout
    assert [line.split()[1] for line in piped.stdout.splitlines() if line.startswith("stage ")] == ["align:", "chat:"]
    coloured = here("labels", "recipe.yaml", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b[1;4;32m red\x1b[0m" in coloured.stdout
    assert "⟦" not in coloured.stdout
    asked_for_none = here("labels", "recipe.yaml", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color")
    assert "⟧" in asked_for_none.stdout
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", asked_for_none.stdout)


def test_labels_of_another_stage_as_json(here, folder):
    found = here("labels", "recipe.yaml", "--stage", "chat", "--json")
    assert found.returncode == 0, found.stderr
    (data,) = json.loads(found.stdout)
    assert (data["stage"], data["samples"], data["tokens"]) == ("chat", 1, data["rows"][0]["tokens"])
    assert [piece["text"] for piece in data["rows"][0]["pieces"] if piece["supervised"]] == [" Hi", "<eos>"]


def test_labels_as_a_page(here, folder):
    done = here("labels", "recipe.yaml", "--html", "page.html")
    assert done.returncode == 0, done.stderr
    assert "USER: <image x 16> ASSISTANT:⟦ red<eos>⟧" in done.stdout
    assert done.stdout.splitlines()[-1] == "written with its images: page.html"
    assert "data:image/png;base64," in (folder / "page.html").read_text()
    both = here("labels", "recipe.yaml", "--html", "page.html", "--check")
    assert both.returncode == 2
    assert "`--html` shows samples and `--check` lists faults: give one" in " ".join(both.stderr.replace("│", " ").split())
    nowhere = here("labels", "recipe.yaml", "--html", "no/page.html")
    assert nowhere.returncode == 3
    assert "`no/page.html` cannot be written" in nowhere.stderr


def test_errors_of_labels_have_their_codes(here, folder):
    missing = here("labels", "recipe.yaml", "--stage", "chatt")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "the recipe has no stage `chatt`" in missing.stderr
    assert here("labels", "recipe.yaml", "model.template=chatml_direct").returncode == 2
    (folder / "rows.jsonl").write_text('{"image": "red.png", "caption": "<eos>"}\n')
    forged = here("labels", "recipe.yaml")
    assert forged.returncode == 3
    assert "turn 1 (assistant) contains `<eos>`: take it out, or drop the row" in forged.stderr
