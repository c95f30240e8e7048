"""A run of two stages that tests stop and take up again: its recipe, how it is stopped, and all that must come out the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import GPT2, causal_lm, picture, section

from vlmzoo.manifest import verify
from vlmzoo.training import fit as fitting
from vlmzoo.training.history import read_log
from vlmzoo.training.train import train
from vlmzoo_registry import VlmzooError

TIMES = ("seconds", "peak_memory")
WORDS = ["a", "a red cat", "two", "seven blue birds on a wire", "rain", "on a hill", "why"]


def recipe(rows: Path, model: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    """Two stages with dropout (GPT-2's), several micro-batches, and a point saved at every other step."""
    common = {
        "objective": "caption",
        "data": [{"name": "captions", "path": str(rows / "rows.jsonl"), "images": str(rows)}],
        "batch_size": 4,
        "micro_batch": 2,
        "steps": 5,
        "save_every": 2,
        "save_minutes": None,
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
        for file in (output / stage / "checkpoint").rglob("*"):
            if file.is_file():
                found[str(file.relative_to(output))] = file.read_bytes()
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


def stop_after(patch: pytest.MonkeyPatch, stage: str, step: int) -> None:
    """Stop the next run when this many steps of this stage are done."""
    advance = fitting.StepProgress.advance

    def stopping(self: Any, loss: float, seconds: float) -> None:
        advance(self, loss, seconds)
        if (self._name, self._done) == (stage, step):
            raise Killed

    patch.setattr(fitting.StepProgress, "advance", stopping)


def stopped(output: Path, plan: dict[str, Any], stage: str = "align", step: int = 4) -> Path:
    """A run that was stopped in this step, and the folder of its last point."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, stage, step)
        with pytest.raises(Killed):
            train(plan, output=output)
    return output / stage / "resume"


def refused(kind: type[VlmzooError], run: Callable[[], object]) -> VlmzooError:
    with pytest.raises(kind) as caught:
        run()
    return caught.value


def write_rows(root: Path) -> Path:
    """Seven pictures: no number of batches of four is a whole epoch."""
    for number in range(len(WORDS)):
        picture(number).save(root / f"{number}.png")
    lines = [{"image": f"{number}.png", "caption": words} for number, words in enumerate(WORDS)]
    (root / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root
