"""A run that is stopped goes on with the same call and ends as one that never stopped: weights, losses and log, to the bit."""

import contextlib
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
from resumable import Killed, assert_same, outcome, recipe, stop_after, stopped, write_rows
from small_models import LLAMA, causal_lm, section

import vlmzoo
from vlmzoo import checkpoint, durable
from vlmzoo.manifest import verify
from vlmzoo.training import fit as fitting
from vlmzoo.training.history import read_log
from vlmzoo.training.train import train


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both stages train on."""
    return write_rows(tmp_path_factory.mktemp("rows"))


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


@pytest.mark.parametrize("step", range(1, 6))
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_stopped_after_any_step(
    stage: str, step: int, rows: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(tmp_path, recipe(rows), stage, step)
    saved = 2 * ((step - 1) // 2)  # the step was done, and the run gone before it could be saved
    assert (tmp_path / stage / "resume").exists() == (saved > 0)
    result = train(recipe(rows), output=tmp_path)
    assert_same(outcome(tmp_path), straight)
    assert len(result.losses) == 10
    cut = tmp_path / stage / "log.1.jsonl"  # the line of `step` itself was not written any more
    assert cut.exists() == (step - 1 > saved)
    if cut.exists():
        assert [json.loads(line)["step"] for line in cut.read_text().splitlines()[1:]] == list(range(step - 1))


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.tuples(st.sampled_from(["align", "instruct"]), st.integers(1, 5)), min_size=2, max_size=5))
def test_stopped_again_and_again(
    stops: list[tuple[str, int]], rows: Path, tmp_path_factory: pytest.TempPathFactory, straight: dict[str, Any]
) -> None:
    output = tmp_path_factory.mktemp("again")
    for stage, step in stops:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, stage, step)
            with contextlib.suppress(Killed):
                train(recipe(rows), output=output)
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


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"mode": "lora", "rank": 2, "lr": 1e-2, "dropout": 0.1}, {"mode": "lora", "rank": 2, "lr": 1e-3, "dropout": 0.1}),
        ({"mode": "lora", "rank": 2, "lr": 1e-2}, {"mode": "full", "lr": 1e-3}),
        ({"mode": "norms", "lr": 1e-2}, {"mode": "lora", "rank": 2, "lr": 1e-2}),
    ],
)
def test_adapters_go_on(first: dict[str, Any], second: dict[str, Any], rows: Path, tmp_path: Path) -> None:
    """Put on, trained on, and merged: stopped in the first stage, at the border, and in the second."""
    plan = recipe(rows, section(language=causal_lm(LLAMA, dtype="bfloat16")))
    plan["stages"][0]["train"] = {"language": first, "connector": {"lr": 1e-2}}
    plan["stages"][1]["train"] = {"language": second}
    train(plan, output=tmp_path / "straight")
    expected = outcome(tmp_path / "straight")
    for stage, step in (("align", 3), ("align", 5), ("instruct", 1), ("instruct", 4)):
        stopped(tmp_path / "run", plan, stage, step)
    train(plan, output=tmp_path / "run")
    assert_same(outcome(tmp_path / "run"), expected)


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
    for event in range(1 if exchanged else 6, moments, 11):
        output = tmp_path / str(event)
        killed_at(event, lambda: train(recipe(rows), output=output))  # noqa: B023 - called at once
        train(recipe(rows), output=output)
        assert_same(outcome(output), straight)
        shutil.rmtree(output)


# ---- what a run leaves -----------------------------------------------------------------------------------------------------


def test_stages_begin_where_the_last_ended(rows: Path, tmp_path: Path) -> None:
    result = train(recipe(rows), output=tmp_path)
    one, two = (verify(tmp_path / stage / "checkpoint") for stage in ("align", "instruct"))
    assert one.extra["parent"] is None
    assert two.extra["parent"] == one.sha256
    assert [stage.name for stage in result.stages] == ["align", "instruct"]
    assert result.checkpoint == tmp_path / "instruct" / "checkpoint"
    logs = [read_log(tmp_path / stage) for stage in ("align", "instruct")]
    assert [log.name for log in logs] == ["align", "instruct"]
    for log, stage in zip(logs, result.stages, strict=True):
        assert [loss for _, loss in log.losses] == list(stage.losses)
        assert [record["loss"] for record in log.steps] == list(stage.losses)
        assert log.steps[-1]["tokens_seen"] == stage.tokens == sum(record["tokens"] for record in log.steps)
        assert log.steps[-1]["images_seen"] == stage.images == 20
        assert log.audit is not None
        assert [row["part"] for row in log.audit["rows"]] == ["vision", "connector", "language"]
    assert logs[1].stage["parent"] == one.sha256
    # Of the language model only the last block trained, from where the first stage had left it: not at all.
    before, after = vlmzoo.load(tmp_path / "align" / "checkpoint"), result.model
    moved = {name for name, p in after.language.named_parameters() if not torch.equal(p, before.language.get_parameter(name))}
    assert moved
    assert all(".h.1." in name or "ln_f" in name for name in moved)
