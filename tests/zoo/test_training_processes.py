"""Two processes make the update of one: rows of uneven length and without an image, rows that stand one after the other or
are packed, objectives that draw at random, parameters that the rows of a process do not reach; split into micro-batches."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import LLAMA, causal_lm, picture, section

from vlmzoo.data import BatchStream, Permutation
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
PARTS = ("connector", "language")
ALL = (*PARTS, "vision")
BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LANGUAGE = causal_lm(LLAMA)
MASKED = section(language={"name": "transformers/masked-lm", "config": BERT})
GLM = section(language=causal_lm(LLAMA, prefix="optional", span_positions=16))
CROSS = section("cross_attention", language=LANGUAGE)
PACKS = {"mode": "pack", "max_tokens": 80, "buffer": 8}

# The model, the parts that train, `batch_size` and `micro_batch`, and what else the stage says.
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], int, int, dict[str, Any]]] = {
    "unified": (section(), ALL, 8, 4, {}),
    "unified whole": (section(), PARTS, 8, 8, {}),
    "connector": (section(), ("connector",), 8, 2, {}),
    "cross": (section("cross_attention"), ("connector",), 8, 2, {}),
    "cross all": (section("cross_attention"), ALL, 8, 2, {}),
    # Batches of two rows, some of them without any image: their gradient of the connector is 0 in one process and in two.
    "text batches": (section(), PARTS, 2, 2, {}),
    "flatten": (section(language=LANGUAGE), PARTS, 8, 4, {"batching": {"mode": "flatten"}}),
    "cross flatten": (CROSS, ALL, 8, 2, {"batching": {"mode": "flatten"}}),
    "pack": (section(language=LANGUAGE), PARTS, 4, 2, {"batching": PACKS}),
    "cross pack": (CROSS, PARTS, 2, 2, {"batching": PACKS}),
    # Of these, too, some rows have no image; and nothing reaches BERT's sentence head.
    "masked": (MASKED, PARTS, 8, 2, {"objective": {"name": "masked", "share": 0.3}}),
    "blank infilling": (GLM, PARTS, 8, 2, {"objective": "blank_infilling"}),
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
    for name, (model, parts, batch, micro, more) in CASES.items():
        stage = {
            "name": "s",
            "objective": "caption",
            "data": [{"name": "llava", "path": str(root / "rows.json"), "images": str(root)}],
            "train": {part: {"lr": 1e-3, "weight_decay": 0.1} for part in parts},
            "batch_size": batch,
            "micro_batch": micro,
            "steps": 12 if name == "text batches" else 3,
            "clip": 0.5,
            "log_every": 1,
            **more,
        }
        recipe = {"model": model, "stages": [stage], "seed": SEED}
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
        stream = BatchStream(Permutation(len(WORDS), seed=SEED), 2)
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
