"""Two processes make the update of one: rows of uneven length, rows without an image, any split into micro-batches."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import picture, section

from vlmzoo.data import SampleStream
from vlmzoo.training.history import read_log

SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
from vlmzoo.config import load_recipe
from vlmzoo.training.train import train

for job in json.loads(open(sys.argv[1]).read()):
    result = train(job["recipe"], output=job["output"])
    open(job["output"] + f"/losses.{torch.distributed.get_rank() if torch.distributed.is_initialized() else 0}", "w").write(
        json.dumps(result.losses)
    )
"""
WORDS = [
    "a",
    "a red cat",
    "two",
    "the dog sees seven blue birds on a wire",
    "rain",
    "on a hill",
    "why",
    "it is a very old tree",
]

SEED = 5
CASES = {
    "unified": ("unified", ("connector", "language", "vision"), 8, 4),
    "unified whole": ("unified", ("connector", "language"), 8, 8),
    "connector": ("unified", ("connector",), 8, 2),
    "cross": ("cross_attention", ("connector",), 8, 2),
    "cross all": ("cross_attention", ("connector", "language", "vision"), 8, 2),
    # Batches of two rows, some of them without any image: their gradient of the connector is 0 in one process and in two.
    "text batches": ("unified", ("connector", "language"), 2, 2),
}


def jobs(root: Path, ranks: int) -> list[dict[str, Any]]:
    rows = []
    for number, words in enumerate(WORDS):
        row = {"id": str(number), "conversations": [{"from": "human", "value": "say"}, {"from": "gpt", "value": words}]}
        if number % 3:
            picture(number).save(root / f"{number}.png")
            row["image"] = f"{number}.png"
            row["conversations"][0]["value"] = "<image>"  # type: ignore[index]
        rows.append(row)
    (root / "rows.json").write_text(json.dumps(rows))
    made = []
    for name, (architecture, parts, batch, micro) in CASES.items():
        stage = {
            "name": "s",
            "objective": "caption",
            "data": [{"name": "llava", "path": str(root / "rows.json"), "images": str(root)}],
            "train": {part: {"lr": 1e-3, "weight_decay": 0.1} for part in parts},
            "batch_size": batch,
            "micro_batch": micro,
            "steps": 4 if batch == 8 else 12,
            "clip": 0.5,
        }
        recipe = {"model": section(architecture), "stages": [stage], "seed": SEED}
        made.append({"name": name, "recipe": recipe, "output": str(root / f"{name} {ranks}")})
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("processes")
    (root / "script.py").write_text(SCRIPT)
    for ranks in (1, 2):
        (root / f"jobs-{ranks}.json").write_text(json.dumps(jobs(root, ranks)))
        start = [sys.executable] if ranks == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        several = [] if ranks == 1 else ["--nproc-per-node=2"]
        done = subprocess.run(
            [*start, *several, str(root / "script.py"), str(root / f"jobs-{ranks}.json")],
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-5000:]
    return root


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name: str, runs: Path) -> None:
    root = runs
    one, two = root / f"{name} 1", root / f"{name} 2"
    if name == "text batches":
        stream = SampleStream(len(WORDS), 2, seed=SEED)
        assert any(all(draw.index % 3 == 0 for (draw,) in stream.next_batch()) for _ in range(12))
    losses = json.loads((one / "losses.0").read_text())
    assert losses == pytest.approx(json.loads((two / "losses.0").read_text()), rel=1e-5)
    assert (two / "losses.0").read_text() == (two / "losses.1").read_text()
    logs = [read_log(run / "s").steps for run in (one, two)]
    assert [line["tokens"] for line in logs[0]] == [line["tokens"] for line in logs[1]]
    assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=1e-6)
    assert logs[0][0]["gradient_norm"] == pytest.approx(logs[1][0]["gradient_norm"], rel=1e-6)
    for file in sorted((one / "s" / "checkpoint").glob("*.safetensors")):
        other = load_file(two / "s" / "checkpoint" / file.name)
        for key, tensor in load_file(file).items():
            # AdamW divides a gradient by its own size: where it is all rounding, so is the step, of at most lr each.
            assert torch.allclose(tensor, other[key], rtol=1e-4, atol=2e-4), key
