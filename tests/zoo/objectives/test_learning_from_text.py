"""BERT's and GLM's objectives learn from real text: what is said of it becomes less surprising than without any context."""

import re
from collections import Counter
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest

from vlmzoo.config import load_recipe
from vlmzoo.data.encode import IGNORE
from vlmzoo.training.history import read_log
from vlmzoo.training.samples import make_collator, stage_samples
from vlmzoo.training.train import train

LICENSE = Path(__file__).parents[3] / "LICENSE"
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 262,
    "max_position_embeddings": 256,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "BERT": {
        "language": {"name": "transformers/masked-lm", "config": {"model_type": "bert", **SIZES, **STILL}},
        "objective": {"name": "masked", "next_sentence": True},
        "data": "sentence_pairs",
        "template": "pair",
        "steps": 160,
        # Rows show one in ten of the tokens that are asked for: by them alone one gets to 0.94 of the entropy.
        "below": 0.9,
    },
    "GLM": {
        "language": {
            "name": "transformers/causal-lm",
            "config": {"model_type": "llama", "num_key_value_heads": 4, **SIZES},
            "prefix": "optional",
            "span_positions": 32,
        },
        "objective": "blank_infilling",
        "data": "paragraphs",
        "template": "plain",
        "steps": 120,
        "below": 0.96,
    },
}


def sentences() -> list[str]:
    """Short sentences of the license of this repository, in their order."""
    found = [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.;:])\s", LICENSE.read_text())]
    return [sentence for sentence in found if 30 < len(sentence) < 120][:15]


def recipe(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = folder / "text.txt"
    path.write_text(("\n" if case["data"] == "sentence_pairs" else "\n\n").join(sentences()))
    return {
        "model": {
            "architecture": "unified",
            "vision": "toy/vision",
            "connector": "connectors/mlp",
            "language": case["language"],
            "template": case["template"],
        },
        "stages": [
            {
                "name": "text",
                "objective": case["objective"],
                "data": [{"name": case["data"], "path": str(path)}],
                "train": {"language": {"lr": 4e-3}},
                "batch_size": 8,
                "steps": case["steps"],
                "warmup": 0.1,
                "log_every": 1,
            }
        ],
    }


def unigram_entropy(model: Any, plan: Any) -> float:
    """What a model would come to that knows how often each token is asked for, and nothing of where it stands (nats)."""
    stage = plan.stages[0]
    data, collate = stage_samples(stage), make_collator(model, stage, seed=plan.seed)
    counts: Counter[int] = Counter()
    for epoch in range(20):
        for index in range(len(data)):
            labels = collate.encode(replace(data[index], epoch=epoch)).labels
            counts.update(labels[labels != IGNORE].tolist())
    total = counts.total()
    return -sum(count / total * log(count / total) for count in counts.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_loss_falls_below_the_unigram_entropy(name, tmp_path):
    plan = load_recipe(recipe(CASES[name], tmp_path))
    result = train(plan, output=tmp_path / "run")
    nll = [step["nll"] for step in read_log(tmp_path / "run" / "text").steps]
    entropy = unigram_entropy(result.model, plan)
    print(f"\n{name}: {nll[0]:.2f} nats at first, {sum(nll[-20:]) / 20:.2f} at last, unigram entropy {entropy:.2f}")
    assert nll[0] > entropy + 1
    assert sum(nll[-20:]) / 20 < CASES[name]["below"] * entropy
