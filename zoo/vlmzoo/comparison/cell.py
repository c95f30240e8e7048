"""One cell of a comparison, in a process of its own: trained, asked, and its result written last.

`python -m vlmzoo.comparison.cell FOLDER` reads `FOLDER/task.json` and leaves `result.json`, or `failure.json` and an exit code.
A process of its own has a memory of its own: what it uses can be measured, and where it ends, the others go on.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from vlmzoo.comparison.cells import with_steps
from vlmzoo.config import Recipe, load_choice, load_recipe
from vlmzoo.durable import replace_json
from vlmzoo.evaluation import Evaluation, contrast
from vlmzoo.training.history import read_log
from vlmzoo.training.memory import is_shortage
from vlmzoo.training.samples import Samples, evaluation_collator, make_collator, stage_samples
from vlmzoo.training.train import train
from vlmzoo.versions import versions
from vlmzoo_registry import Dataset, Metric, VlmzooError
from vlmzoo_registry.report import failure

TASK, RESULT, FAILURE = "task.json", "result.json", "failure.json"
RUN = "run"

MEASURED_STEPS = 8
"""How many steps a budget of seconds is measured on; the first two, in which much happens for the first time, do not count."""


def run_cell(folder: Path) -> None:
    """Train and ask what `task.json` says; goes on where an earlier process stopped."""
    task = json.loads((folder / TASK).read_text(encoding="utf-8"))
    recipe = load_recipe(task["recipe"])
    measured = None
    if task["seconds"] is not None:
        measured = _measured_pace(folder, recipe)
        recipe = with_steps(recipe, max(1, int(task["seconds"] / measured)))
    result = train(recipe, output=folder / RUN)
    asked = task["evaluate"]
    samples = Samples([load_choice("dataset", source).make(Dataset) for source in asked["data"]])
    metrics = {source["name"]: load_choice("metric", source).make(Metric) for source in asked["metrics"]}
    stage = recipe.stages[-1]
    answered = contrast(
        result.model,
        samples,
        stage_samples(stage, make_collator(result.model, stage, seed=recipe.seed)),  # what it has learnt from
        collate=evaluation_collator(result.model, stage),
        metrics=metrics,
        batch_size=asked["batch_size"],
        max_new_tokens=asked["max_new_tokens"],
        limit=asked["limit"],
    )
    last = result.stages[-1]
    log = read_log(last.checkpoint.parent)  # of all processes that had a part in it
    seconds = log.end["seconds"] if log.end is not None else last.seconds
    replace_json(
        folder / RESULT,
        {
            "format": 1,
            "task": task,
            "versions": versions(result.model),
            "image_tokens": result.model.image_tokens,
            "parameters": sum(part["parameters"] for part in log.stage["parts"]),
            "trained_parameters": sum(part["trained"] for part in log.stage["parts"]),
            "steps": len(last.losses),
            "supervised_tokens": last.tokens,
            "images": last.images,
            "seconds": seconds,
            "seconds_per_step": seconds / len(last.losses),
            "measured_seconds_per_step": measured,
            "peak_memory": max(record["peak_memory"] for record in log.steps),
            "losses": list(last.losses),
            "seeing": _told(answered.seeing),
            "blind": _told(answered.blind),
            "frequent": {name: asdict(score) for name, score in answered.frequent_scores.items()},
        },
    )


def _told(evaluation: Evaluation) -> dict[str, Any]:
    return {key: value for key, value in evaluation.to_dict().items() if key != "shuffled"}


def _measured_pace(folder: Path, recipe: Recipe) -> float:
    """Seconds per step of the last stage, measured once and kept, so that a cell that is taken up has the same length."""
    kept = folder / "pace.json"
    if kept.exists():
        return float(json.loads(kept.read_text(encoding="utf-8"))["seconds_per_step"])
    stage = recipe.stages[-1].model_copy(update={"log_every": 1, "steps": MEASURED_STEPS, "epochs": None})
    trial = folder / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    result = train(recipe.model_copy(update={"stages": (stage,)}), output=trial)
    steps = read_log(result.checkpoint.parent).steps
    pace = median(record["seconds"] for record in steps[2:])
    shutil.rmtree(trial)
    replace_json(kept, {"seconds_per_step": pace, "measured_steps": len(steps) - 2})
    return pace


def main() -> int:
    """Run the cell of the folder named on the command line; returns the exit code."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    _end_with(parent)
    from vlmzoo.cli.quiet import quiet_frameworks

    quiet_frameworks()
    try:
        run_cell(folder)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        report = _report(error)
        replace_json(folder / FAILURE, report)
        if not isinstance(error, VlmzooError):
            raise
        print(error, file=sys.stderr)
        return int(report["exit_code"])
    return 0


def _report(error: Exception) -> dict[str, Any]:
    if isinstance(error, VlmzooError):
        return {"message": error.message, "reasons": list(error.reasons), "exit_code": error.exit_code}
    if is_shortage(error):
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return {"message": f"not enough memory ({said})", "reasons": [], "exit_code": 6}
    return {"message": failure(error), "reasons": [], "exit_code": 1}


def _end_with(parent: int) -> None:
    """On Linux: be killed when the comparison is, whatever kills it; elsewhere its lock keeps a second one out meanwhile."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
