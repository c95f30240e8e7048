"""A run that is stopped goes on with the same call and ends as one that never stopped: weights, losses and log, to the bit."""

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_models import GPT2, causal_lm, picture, section

import vlmzoo
from vlmzoo import checkpoint, durable, manifest
from vlmzoo.manifest import verify
from vlmzoo.training import fit as fitting
from vlmzoo.training.fit import NotFiniteError
from vlmzoo.training.history import read_log
from vlmzoo.training.train import train
from vlmzoo_registry import CheckpointError, ResourceError, VlmzooError

TIMES = ("seconds", "peak_memory")
WORDS = ["a", "a red cat", "two", "seven blue birds on a wire", "rain", "on a hill", "why"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures: no number of batches of four is a whole epoch."""
    root = tmp_path_factory.mktemp("rows")
    for number in range(len(WORDS)):
        picture(number).save(root / f"{number}.png")
    lines = [{"image": f"{number}.png", "caption": words} for number, words in enumerate(WORDS)]
    (root / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def recipe(rows: Path, model: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    """Two stages with dropout (GPT-2's), several micro-batches, and a point saved at every other step."""
    common = {
        "objective": "caption",
        "data": [{"name": "captions", "path": str(rows / "rows.jsonl"), "images": str(rows)}],
        "batch_size": 4,
        "micro_batch": 2,
        "steps": 5,
        "save_every": 2,
        "log_every": 1,
        **stage,
    }
    return {
        "model": section(language=causal_lm(GPT2)) if model is None else model,
        "seed": 3,
        "stages": [
            {"name": "align", "train": {"connector": {"lr": 1e-2}}, **common},
            {
                "name": "instruct",
                "train": {"connector": {"lr": 1e-3}, "language": {"mode": "last", "layers": 1, "lr": 1e-2}},
                **common,
            },
        ],
    }


class Killed(BaseException):
    """Stands for a kill where the process goes on."""


def outcome(output: Path) -> dict[str, Any]:
    """All that must not depend on how often a run was stopped: every file of the checkpoints, and the logs but for times."""
    found: dict[str, Any] = {}
    for stage in ("align", "instruct"):
        verify(output / stage / "checkpoint")
        found |= {f"{stage}/{file.name}": file.read_bytes() for file in (output / stage / "checkpoint").iterdir()}
        log = read_log(output / stage)
        records = [log.stage, *log.steps, log.audit, log.end]
        found[f"{stage}/log"] = [
            {key: value for key, value in (record or {}).items() if key not in TIMES} for record in records
        ]
        assert not (output / stage / "resume").exists()
        assert (output / stage / "loss.svg").exists()
        assert not list((output / stage).glob(".*"))
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


@pytest.fixture(scope="module")
def straight(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run that was never stopped."""
    output = tmp_path_factory.mktemp("straight")
    train(recipe(rows), output=output)
    found = outcome(output)
    with pytest.MonkeyPatch.context() as patch:  # the runs are not all alike: dropout is drawn, and is drawn from the seed
        patch.setattr(fitting, "seed_draws", lambda *key: torch.manual_seed(hash(key)))
        train(recipe(rows), output=output / "other draws")
    assert found["instruct/log"][-1] != outcome(output / "other draws")["instruct/log"][-1]
    return found


def stop_after(patch: pytest.MonkeyPatch, stage: str, step: int) -> None:
    """Stop the next run when this many steps of this stage are done."""
    advance = fitting.StepProgress.advance

    def stopping(self: Any, loss: float, seconds: float) -> None:
        advance(self, loss, seconds)
        if (self._name, self._done) == (stage, step):
            raise Killed

    patch.setattr(fitting.StepProgress, "advance", stopping)


@pytest.mark.parametrize("step", range(1, 6))
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_stopped_after_any_step(
    stage: str, step: int, rows: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, stage, step)
        train(recipe(rows), output=tmp_path)
    saved = 2 * ((step - 1) // 2)  # the step was done, and the run gone before it could be saved
    assert (tmp_path / stage / "resume").exists() == (saved > 0)
    result = train(recipe(rows), output=tmp_path)
    assert_same(outcome(tmp_path), straight)
    assert len(result.losses) == 10
    cut = tmp_path / stage / "log.1.jsonl"  # the line of `step` itself was not written any more
    assert cut.exists() == (step - 1 > saved)
    if cut.exists():
        assert [json.loads(line)["step"] for line in cut.read_text().splitlines()[1:]] == list(range(step - 1))


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.tuples(st.sampled_from(["align", "instruct"]), st.integers(1, 5)), min_size=2, max_size=5))
def test_stopped_again_and_again(
    stops: list[tuple[str, int]], rows: Path, tmp_path_factory: pytest.TempPathFactory, straight: dict[str, Any]
) -> None:
    output = tmp_path_factory.mktemp("again")
    for stage, step in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, stage, step)
            try:
                train(recipe(rows), output=output)
            except Killed:
                pass
    train(recipe(rows), output=output)
    assert_same(outcome(output), straight)


@pytest.mark.parametrize("save_every", [1, 3, 100])
def test_when_it_is_saved_changes_nothing(save_every: int, rows: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    train(recipe(rows, save_every=save_every), output=tmp_path)
    found = outcome(tmp_path)
    names = [name for name in found if name.endswith(".safetensors")]
    assert names
    assert all(found[name] == straight[name] for name in names)
    assert found["instruct/log"][-1] == straight["instruct/log"][-1]


# ---- killed, at any moment -------------------------------------------------------------------------------------------------


def killed_at(event: int, run: Callable[[], object]) -> int:
    """Run in a child that ends, with nothing tidied up, before this one of the moments that matter; returns how many came.

    A moment is a call of what writes, flushes, renames or removes files.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def watched(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                os.write(writing, b".")
                if count == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **options)

            return call

        try:
            for module, name in (
                (checkpoint, "save_file"),
                (checkpoint, "write_manifest"),
                (checkpoint, "verify"),
                (durable, "_flush_entry"),
                (durable, "_publish"),
                (durable.os, "replace"),
                (shutil, "rmtree"),
                (fitting.RunLog, "write"),
                (fitting, "write_loss_plot"),
            ):
                setattr(module, name, watched(getattr(module, name)))
            run()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    seen = b""
    while piece := os.read(reading, 65536):
        seen += piece
    os.close(reading)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == (event > 0 and len(seen) == event), status
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return len(seen)


@pytest.mark.slow
@pytest.mark.parametrize("exchanged", [True, False])
def test_killed_at_any_moment_of_the_run(
    exchanged: bool, rows: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where folders cannot be exchanged in one step, and for a moment no folder has its name."""
    if not exchanged:
        monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    moments = killed_at(0, lambda: train(recipe(rows), output=tmp_path / "counted"))
    assert moments > 100
    for event in range(1 if exchanged else 4, moments, 7):
        output = tmp_path / str(event)
        killed_at(event, lambda: train(recipe(rows), output=output))  # noqa: B023 - called at once
        train(recipe(rows), output=output)
        assert_same(outcome(output), straight)
        shutil.rmtree(output)
