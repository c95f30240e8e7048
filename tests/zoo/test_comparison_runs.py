"""Comparisons as they are run: cells in processes of their own, killed and taken up, failing and tried again."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from comparison_toys import GRID, WORDS, write_toys
from small_models import LLAMA, causal_lm

import vlmzoo
from vlmzoo.cli.compare import compare as command_of_compare
from vlmzoo.comparison import cell as one_cell
from vlmzoo.comparison import compare as comparing
from vlmzoo.comparison.cell import FAILURE, RESULT, TASK, run_cell
from vlmzoo.comparison.compare import COMPARISON, REPORT, plan_comparison
from vlmzoo.config import load_grid
from vlmzoo.durable import replace_json
from vlmzoo.evaluation import evaluate
from vlmzoo.training.samples import evaluation_collator, stage_samples
from vlmzoo_registry import DataError, NoOptions, ResourceError
from vlmzoo_tasks.exact import ExactMetric
from vlmzoo_tasks.words import WordsMetric

MAIN = "from vlmzoo.cli import main; main()"
OF_THE_MACHINE = ("seconds", "seconds_per_step", "peak_memory")
FAILING = Path(__file__).parent / "failing_parts.py"

SMALL = "".join(line for line in GRID.splitlines(keepends=True) if "linear" not in line)
"""Two combinations."""


def environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": "100"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", MAIN, *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True)


def same_everywhere(data: Any) -> Any:
    """What does not depend on the machine and its day."""
    if isinstance(data, dict):
        return {key: same_everywhere(value) for key, value in data.items() if key not in OF_THE_MACHINE}
    return [same_everywhere(value) for value in data] if isinstance(data, list) else data


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


# One cell, in this process


@pytest.fixture
def cell(tmp_path):
    grid = write_toys(tmp_path, grid=SMALL)
    config, _ = load_grid(grid)
    first = plan_comparison(grid)[0]
    folder = tmp_path / "cell"
    folder.mkdir()
    replace_json(folder / TASK, first.task(config))
    return first, folder


def test_a_cell_leaves_what_training_and_evaluation_gave(cell):
    planned, folder = cell
    run_cell(folder)
    told = read(folder / RESULT)
    assert (told["steps"], told["supervised_tokens"], told["images"]) == (
        planned.length.steps,
        planned.length.supervised_tokens,
        planned.length.images,
    )
    model = vlmzoo.load(folder / "run" / "align" / "checkpoint")
    assert told["image_tokens"] == model.image_shape.count == 16
    sizes = {part: sum(p.numel() for p in module.parameters()) for part, module in model.parts.items()}
    assert told["parameters"] == sum(sizes.values())
    assert told["trained_parameters"] == sizes["connector"] + sizes["language"]
    assert told["seconds_per_step"] == pytest.approx(told["seconds"] / told["steps"])
    assert 100 * 2**20 < told["peak_memory"] < 16 * 2**30
    assert len(told["losses"]) == told["steps"]
    stage = planned.recipe.stages[-1]
    samples = stage_samples(stage)
    metrics = {"tasks/exact": ExactMetric(NoOptions()), "tasks/words": WordsMetric(NoOptions())}
    for key, shuffled in (("seeing", False), ("blind", True)):
        again = evaluate(
            model, samples, collate=evaluation_collator(model, stage), metrics=metrics, max_new_tokens=4, shuffled=shuffled
        ).to_dict()
        assert told[key]["loss"] == pytest.approx(again["loss"], rel=1e-6)
        assert told[key]["scores"] == again["scores"]
        assert [answer["said"] for answer in told[key]["answers"]] == [answer["said"] for answer in again["answers"]]
    assert told["task"] == read(folder / TASK)
    # Each caption stands once in training: of the equally frequent ones the first is said, and is right once.
    assert told["frequent"]["tasks/exact"]["mean"] == pytest.approx(1 / 8)


@pytest.mark.parametrize("cut", [False, True], ids=["default batching", "padded and cut"])
def test_what_a_stage_does_to_its_rows_is_not_done_to_those_that_are_asked_about(tmp_path, cut):
    """By default rows of such a model stand one after the other; a stage that cuts rows is still asked about whole answers."""
    changes = [f"model.language={json.dumps(causal_lm(LLAMA))}"]
    if cut:
        changes += ["stages.0.batching={mode: padded}", "stages.0.too_long=cut", "stages.0.max_length=24"]
    grid = "base: recipe.yaml\naxes: {one: {way: []}}\noverrides: " + json.dumps(changes) + "\n" + GRID[GRID.index("seeds:") :]
    path = write_toys(tmp_path, grid=grid)
    config, _ = load_grid(path)
    (planned, _) = plan_comparison(path)
    replace_json(tmp_path / TASK, planned.task(config))
    run_cell(tmp_path)
    told = read(tmp_path / RESULT)
    # The byte tokenizer: a token for each letter, and the end.
    for asked in ("seeing", "blind"):
        assert [answer["tokens"] for answer in told[asked]["answers"]] == [len(words) + 1 for words in WORDS]
        assert all(answer["nats"] > 0 for answer in told[asked]["answers"])
    cuts = [json.loads(line) for line in (tmp_path / "run" / "align" / "log.jsonl").read_text().splitlines()]
    assert (cuts[-1]["rows_cut"] > 0) == cut


def test_a_finished_training_is_only_asked_again(cell):
    _, folder = cell
    run_cell(folder)
    first = read(folder / RESULT)
    checkpoint = folder / "run" / "align" / "checkpoint" / "manifest.json"
    written = checkpoint.stat().st_mtime_ns
    task = read(folder / TASK)
    task["evaluate"] |= {"limit": 2, "metrics": [{"name": "tasks/exact"}]}
    replace_json(folder / TASK, task)
    run_cell(folder)
    again = read(folder / RESULT)
    assert checkpoint.stat().st_mtime_ns == written
    assert len(again["seeing"]["answers"]) == 2
    assert list(again["seeing"]["scores"]) == ["tasks/exact"]
    assert {key: again[key] for key in ("losses", "peak_memory", "seconds")} == {
        key: first[key] for key in ("losses", "peak_memory", "seconds")
    }


def test_a_budget_of_seconds_is_measured_once_and_kept(cell, tmp_path):
    _, folder = cell
    config, _ = load_grid(tmp_path / "grid.yaml", ["budget={seconds: 0.2}"])
    (timed, *_) = plan_comparison(tmp_path / "grid.yaml", overrides=["budget={seconds: 0.2}"])
    replace_json(folder / TASK, timed.task(config))
    run_cell(folder)
    told, pace = read(folder / RESULT), read(folder / "pace.json")
    assert told["measured_seconds_per_step"] == pace["seconds_per_step"] > 0
    assert pace["measured_steps"] == 6
    assert told["steps"] == max(1, int(0.2 / pace["seconds_per_step"]))
    assert not (folder / "trial").exists()
    # Taken up by another process on another day: as long as it was begun.
    (folder / RESULT).unlink()
    measured = (folder / "pace.json").stat().st_mtime_ns
    run_cell(folder)
    assert read(folder / RESULT)["steps"] == told["steps"]
    assert (folder / "pace.json").stat().st_mtime_ns == measured


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("no such luck"), {"message": "ZeroDivisionError: no such luck", "reasons": [], "exit_code": 1}),
        (DataError("a row", ["one", "two"]), {"message": "a row", "reasons": ["one", "two"], "exit_code": 3}),
        (torch.OutOfMemoryError("full\nmore"), {"message": "not enough memory (full)", "reasons": [], "exit_code": 6}),
        (MemoryError(), {"message": "not enough memory (MemoryError)", "reasons": [], "exit_code": 6}),
    ],
)
def test_a_cell_says_why_it_failed(cell, monkeypatch, error, told):
    _, folder = cell

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(one_cell, "train", fail)
    monkeypatch.setattr(sys, "argv", ["cell", str(folder), str(os.getppid())])
    monkeypatch.setattr(one_cell, "_end_with", lambda parent: None)
    if isinstance(error, DataError):
        assert one_cell.main() == 3
    else:
        with pytest.raises(type(error)):
            one_cell.main()
    left = read(folder / FAILURE)
    left["message"] = left["message"].partition(" (/")[0]  # a place of this file
    assert left == told
    assert not (folder / RESULT).exists()


# Whole comparisons


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A comparison that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    comparison = vlmzoo.compare(write_toys(folder, grid=SMALL), output=folder / "out")
    assert comparison.failures == ()
    return folder


@pytest.mark.slow
def test_the_table_is_that_of_the_cells(whole):
    data = read(whole / "out" / COMPARISON)
    assert [row["combination"] for row in data["combinations"]] == ["mlp+unified", "mlp+cross"]
    for row in data["combinations"]:
        told = [read(whole / "out" / "cells" / f"{row['combination']}-seed{seed}" / RESULT) for seed in (0, 1)]
        for key in ("steps", "supervised_tokens", "images", "seconds", "peak_memory", "trained_parameters", "image_tokens"):
            values = [entry[key] for entry in told]
            assert row["measures"][key] == {"mean": pytest.approx(mean(values)), "spread": pytest.approx(stdev(values)), "n": 2}
        for where, ours in (("seeing", "scores"), ("blind", "blind_scores")):
            for metric in ("tasks/exact", "tasks/words"):
                # From the answers themselves.
                values = [mean(answer["scores"][metric] for answer in entry[where]["answers"]) for entry in told]
                assert row[ours][metric]["mean"] == pytest.approx(mean(values))
                assert row[ours][metric]["spread"] == pytest.approx(stdev(values))
        losses = [
            sum(answer["nats"] for answer in entry["seeing"]["answers"]) / sum(a["tokens"] for a in entry["seeing"]["answers"])
            for entry in told
        ]
        assert row["measures"]["loss"]["mean"] == pytest.approx(mean(losses))
    assert data["failures"] == []
    assert set(data["versions"]) >= {"python", "vlmzoo", "torch", "transformers"}
    page = (whole / "out" / REPORT).read_text(encoding="utf-8")
    assert "mlp+cross" in page and page.count("<svg") >= 1


@pytest.mark.slow
def test_a_finished_comparison_is_only_read(whole, capsys):
    grid, out = whole / "grid.yaml", whole / "out"
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*")}
    command_of_compare(grid, output=out, as_json=True)
    assert json.loads(capsys.readouterr().out) == read(out / COMPARISON)
    command_of_compare(grid, output=out, as_markdown=True)
    text = capsys.readouterr().out
    assert text.startswith("| combination | seeds |") and "| mlp+cross | 2 | 16 |" in text
    command_of_compare(grid, output=out)
    lines = capsys.readouterr().out.splitlines()
    assert sum("done before, held-out loss" in line for line in lines) == 4
    assert f"Report: {out / REPORT}" in lines and f"Figures: {out / COMPARISON}" in lines
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*")} == before


@pytest.mark.slow
def test_a_changed_grid_is_refused_with_what_changed(whole):
    grid, out = whole / "grid.yaml", whole / "out"
    kept = (out / COMPARISON).read_bytes()
    changes = ["budget.supervised_tokens=500", "overrides=[stages.0.train.connector.lr=0.5]"]
    with pytest.raises(ResourceError) as refused:
        vlmzoo.compare(grid, output=out, overrides=changes)
    assert "holds cells that were trained otherwise: choose another `--output`" in refused.value.message
    assert len(refused.value.reasons) == 4
    assert refused.value.reasons[0].startswith("mlp+unified-seed0: `recipe.stages.0.steps`: 8 there, ")
    assert "`recipe.stages.0.train.connector.lr`: 0.01 there, 0.5 in this recipe" in refused.value.reasons[0]
    assert (out / COMPARISON).read_bytes() == kept
    # Fewer seeds change no cell; what is there is read.
    fewer = vlmzoo.compare(grid, output=out, overrides=["seeds=[1]"])
    assert [cell.seed for cell in fewer.cells] == [1, 1]
    # Nor does when they are saved, or that an earlier version trained one: they are neither trained nor asked again.
    results = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/result.json")}
    vlmzoo.compare(grid, output=out, overrides=["overrides=[stages.0.save_every=9]"])
    first = next(iter(results))
    for path in (first, first.parent / TASK):
        told = read(path)
        for stage in told.get("task", told)["recipe"]["stages"]:
            del stage["save_minutes"]
        path.write_text(json.dumps(told))
    results[first] = first.stat().st_mtime_ns
    vlmzoo.compare(grid, output=out)
    assert {path: path.stat().st_mtime_ns for path in results} == results
    assert (out / COMPARISON).read_bytes() == kept


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again_it_ends_the_same(whole, tmp_path):
    grid = write_toys(tmp_path, grid=SMALL)
    out = tmp_path / "out"
    seconds = time.monotonic() + 240
    process = subprocess.Popen(
        command("compare", grid, "-o", out), env=environment(), stdout=subprocess.DEVNULL, start_new_session=True
    )
    log = out / "cells" / "mlp+unified-seed1" / "run" / "align" / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 4):
        assert process.poll() is None and time.monotonic() < seconds
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / COMPARISON).exists()
    assert (out / "cells" / "mlp+unified-seed0" / RESULT).exists()
    vlmzoo.compare(grid, output=out)
    ended, straight = read(out / COMPARISON), read(whole / "out" / COMPARISON)
    assert same_everywhere(ended["combinations"]) == same_everywhere(straight["combinations"])
    assert same_everywhere(ended["cells"]) == same_everywhere(straight["cells"])
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["step"] for record in steps if record["kind"] == "step"] == list(range(ended["cells"][1]["steps"]))


@pytest.mark.slow
def test_an_interruption_saves_the_cell_at_work(whole, tmp_path):
    grid = write_toys(tmp_path, grid=SMALL)
    arguments = ("compare", grid, "budget={steps: 5000}", "seeds=[0]", "-o", tmp_path / "out")
    process = subprocess.Popen(
        command(*arguments), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    log = tmp_path / "out" / "cells" / "mlp+unified-seed0" / "run" / "align" / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 4):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "cell `mlp+unified-seed0` was at work; the same command goes on from what is saved" in " ".join(said.split())
    assert "Traceback" not in said
    logged = len(log.read_text().splitlines()) - 1
    (state,) = (log.parent / "resume").glob("training.json")
    assert read(state)["step"] >= logged - 1


@pytest.mark.slow
def test_cells_that_fail_leave_the_others_and_are_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMZOO_PLUGINS", str(FAILING))
    heal = tmp_path / "healed"
    names = ("hungry", "killed")
    values = "".join(f'    {name}: ["model.connector=[{{name: failing_parts/{name}, heal: {heal}}}]"]\n' for name in names)
    grid = write_toys(
        tmp_path,
        grid=f"""
base: recipe.yaml
axes:
  connector:
{values}    mlp: []
budget: {{steps: 2}}
evaluate: {{data: [{{name: captions, path: rows.jsonl, images: .}}], metrics: [exact], max_new_tokens: 2}}
""",
    )
    out = tmp_path / "out"
    failed = run("compare", grid, "-o", out)
    assert failed.returncode == 6, failed.stderr
    data = read(out / COMPARISON)
    assert [cell["combination"] for cell in data["cells"]] == ["mlp"]
    told = {failure["combination"]: (failure["message"], failure["exit_code"]) for failure in data["failures"]}
    hungry = told["hungry"][0]
    assert hungry.startswith("stage `align`, step 0: not enough memory (CUDA out of memory. Tried to allocate 7 GiB); ")
    assert "`micro_batch`" in hungry and told["hungry"][1] == 6
    assert told["killed"][0].startswith("its process was killed. Where nobody did that, it is how the system ends")
    assert told["killed"][1] == 6
    said = " ".join(failed.stderr.split())
    assert "error: 2 of 3 cells have no result; the same command tries them again and keeps the others" in said
    assert "- killed seed 0: its process was killed." in said
    assert "Traceback" not in failed.stderr
    page = (out / REPORT).read_text(encoding="utf-8")
    assert "2 cells have no result" in page
    # What was in the way is gone: only what failed is tried again.
    result = out / "cells" / "mlp-seed0" / RESULT
    written = result.stat().st_mtime_ns
    heal.touch()
    healed = run("compare", grid, "-o", out)
    assert healed.returncode == 0, healed.stderr
    assert result.stat().st_mtime_ns == written
    data = read(out / COMPARISON)
    assert [cell["combination"] for cell in data["cells"]] == [*names, "mlp"]
    assert data["failures"] == []


def test_two_comparisons_never_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "LOCK_PATIENCE", 0.2)
    grid = write_toys(tmp_path, grid=SMALL)
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match=r"another comparison is at work in `.*/out`: wait for it, or end it"):
            vlmzoo.compare(grid, output=tmp_path / "out")


def test_a_dry_run_lists_the_cells_and_trains_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    grid = write_toys(tmp_path)
    command_of_compare(grid, output=tmp_path / "out", dry_run=True, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["cell"] for row in rows] == [
        f"{name}-seed{seed}" for name in ("linear+unified", "mlp+unified", "mlp+cross") for seed in (0, 1)
    ]
    assert {row["image_tokens"] for row in rows} == {16}
    assert {row["supervised_tokens"] for row in rows if row["seed"] == 0} == {rows[0]["supervised_tokens"]}
    command_of_compare(grid, output=tmp_path / "out", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:3] == ["mlp+cross-seed1", "16", f"{rows[-1]['parameters']:,}"] for line in lines)
    assert not (tmp_path / "out").exists()
