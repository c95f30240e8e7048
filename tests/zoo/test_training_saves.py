"""Points saved by the clock: they change nothing of what is learnt, and what is learnt does not depend on when they are."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from resumable import outcome, recipe, refused, stopped, write_rows

from vlmzoo.config import Recipe
from vlmzoo.training import fit as fitting
from vlmzoo.training.processes import agreed
from vlmzoo.training.save_schedule import SaveSchedule
from vlmzoo.training.train import train
from vlmzoo_registry import CheckpointError, ResourceError


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both stages train on."""
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def straight(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run that was never stopped, saved by steps."""
    output = tmp_path_factory.mktemp("straight")
    train(recipe(rows), output=output)
    return outcome(output)


def weights(found: dict[str, Any]) -> dict[str, bytes]:
    """What was learnt: manifests and logs also say how often it was logged."""
    return {name: content for name, content in found.items() if name.endswith(".safetensors")}


def saves(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Let each step take so many seconds by the clock; returns where the steps after which a point is saved will stand."""
    now, steps = 0.0, []
    advance, save_point = fitting.StepProgress.advance, fitting.save_point

    def ticking(self: Any, *told: Any) -> None:
        nonlocal now
        now += seconds
        advance(self, *told)

    def noting(model: Any, folder: Path, point: Any, **options: Any) -> None:
        steps.append(point.progress.step)
        save_point(model, folder, point, **options)

    monkeypatch.setattr(fitting.StepProgress, "advance", ticking)
    monkeypatch.setattr(fitting, "save_point", noting)
    monkeypatch.setattr(fitting, "SaveSchedule", partial(SaveSchedule, clock=lambda: now))
    return steps


@pytest.mark.parametrize(
    ("every", "minutes", "expected"),
    [(100, 2.0, [2, 4]), (100, 0.001, [1, 2, 3, 4]), (100, 5.0, []), (3, 2.0, [2, 3]), (100, None, []), (2, None, [2, 4])],
)
def test_by_minutes_and_by_steps(
    every: int,
    minutes: float | None,
    expected: list[int],
    rows: Path,
    tmp_path: Path,
    straight: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps of one minute: two stages of five, of which the last step is saved as a checkpoint."""
    steps = saves(monkeypatch, 60)
    train(recipe(rows, save_every=every, save_minutes=minutes), output=tmp_path)
    assert steps == 2 * expected
    assert weights(outcome(tmp_path)) == weights(straight)


def test_a_run_goes_on_from_a_point_saved_by_the_clock(
    rows: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    saves(monkeypatch, 60)
    resume = stopped(tmp_path, recipe(rows, save_every=100, save_minutes=2.0), "align", 4)
    assert json.loads((resume / "training.json").read_text())["step"] == 2
    train(recipe(rows, save_every=100, save_minutes=2.0), output=tmp_path)
    assert weights(outcome(tmp_path)) == weights(straight)


@pytest.mark.parametrize(("other", "expected"), [([0, 1], (15, 1)), ([17, 0], (17, 0))])
def test_what_one_process_notices_all_act_upon(
    other: list[int], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    monkeypatch.setattr(Accelerator, "gather", lambda self, mine: torch.cat([mine, torch.tensor([other])]))
    assert agreed(Accelerator(cpu=not torch.accelerator.is_available()), 15, 0) == expected


# ---- killed ------------------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys, time
import torch
torch.set_num_threads(1)
from vlmzoo.training import fit as fitting
from vlmzoo.training.train import train

advance = fitting.StepProgress.advance

def slowly(self, loss, seconds):
    advance(self, loss, seconds)
    print(self._done, flush=True)
    time.sleep(0.2)

fitting.StepProgress.advance = slowly
train(json.loads(open(sys.argv[1]).read()), output=sys.argv[2])
"""


@pytest.mark.slow
def test_killed_outright_it_goes_on_from_what_the_clock_had_saved(rows: Path, tmp_path: Path) -> None:
    """By steps there would be no point: all that was done would be lost."""
    train(recipe(rows, steps=12), output=tmp_path / "straight")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(rows, steps=12, save_every=10**6, save_minutes=1e-6)))
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "recipe.json"), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    while int(run.stdout.readline()) < 4:
        pass
    run.kill()
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    point = json.loads((tmp_path / "run" / "align" / "resume" / "training.json").read_text())
    assert 1 <= point["step"] < 12
    train(recipe(rows, steps=12), output=tmp_path / "run")
    assert weights(outcome(tmp_path / "run")) == weights(outcome(tmp_path / "straight"))


# ---- what may change while a run goes on -------------------------------------------------------------------------------------


def test_when_it_is_saved_and_logged_may_change_on_the_way(rows: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    stopped(tmp_path, recipe(rows), "align", 3)
    train(recipe(rows, save_every=7, save_minutes=0.5, log_every=3), output=tmp_path)
    assert weights(outcome(tmp_path)) == weights(straight)
    kept = json.loads((tmp_path / "recipe.json").read_text())["stages"][1]
    assert (kept["save_every"], kept["save_minutes"], kept["log_every"]) == (7, 0.5, 3)


@pytest.fixture(scope="module")
def earlier(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped by a version without `save_minutes`, whose digest was of `save_every` and `log_every` too."""

    def told(plan: dict[str, Any]) -> dict[str, Any]:
        return {**plan, "stages": [{k: v for k, v in stage.items() if k != "save_minutes"} for stage in plan["stages"]]}

    def digest(plan: Recipe) -> str:
        said = told(plan.model_dump(mode="json"))
        for stage in said["stages"]:
            del stage["workers"]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    output = tmp_path_factory.mktemp("earlier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "recipe_digest", digest)
        stopped(output, recipe(rows), "align", 3)
    kept = output / "recipe.json"
    kept.write_text(json.dumps(told(json.loads(kept.read_text()))))
    return output


def test_a_run_of_an_earlier_version_goes_on(
    earlier: Path, rows: Path, tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(earlier, tmp_path / "run")
    steps = saves(monkeypatch, 60)
    train(recipe(rows, save_minutes=1.0, workers=1), output=tmp_path / "run")
    assert steps[0] == 3
    assert weights(outcome(tmp_path / "run")) == weights(straight)


def test_a_run_of_an_earlier_version_keeps_what_its_digest_is_of(earlier: Path, rows: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier, tmp_path / "run")
    error = refused(ResourceError, lambda: train(recipe(rows, save_every=4), output=tmp_path / "run"))
    assert error.reasons == tuple(f"`stages.{stage}.save_every`: 2 there, 4 in this recipe" for stage in (0, 1))
    # It was taken up by this version, and stopped before that had saved anything.
    stopped(tmp_path / "run", recipe(rows), "align", 3)
    error = refused(CheckpointError, lambda: train(recipe(rows, save_every=4), output=tmp_path / "run"))
    assert (
        ": it was saved by another run, or by an earlier version with another `save_every` or `log_every`, which it cannot go "
        "on without; remove `" in error.message
    )
    assert [reason.partition(":")[0] for reason in error.reasons] == ["`recipe_sha256`"]
