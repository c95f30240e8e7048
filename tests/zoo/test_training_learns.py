"""A small real task, real pictures and their names of groups: the loss falls, and it falls because the model looks."""

from pathlib import Path
from typing import Any

import pytest
import torch

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.data.collate import Collator
from vlmzoo.training.train import train
from vlmzoo_registry.tasks import Sample

ASSETS = Path(vlmzoo.__file__).parent / "quickstart" / "assets"
CHAINS = {
    "unified": [{"name": "connectors/mlp"}],
    "cross_attention": [{"name": "connectors/cross-attention", "every": 1, "heads": 4, "head_width": 16}],
}


def recipe(architecture: str) -> dict[str, Any]:
    sheet = {
        "name": "sheet",
        "sheet": str(ASSETS / "noto_64.webp"),
        "labels": str(ASSETS / "labels.jsonl.gz"),
        "columns": 44,
        "cell": 64,
        "text": "{group}",
        "include_groups": ["animals-nature", "flags"],
        "split": "train",
        "heldout": 0.2,
    }
    return {
        "model": {
            "architecture": architecture,
            "vision": {"name": "toy/vision", "width": 48, "heads": 4},
            "connector": CHAINS[architecture],
            "language": {"name": "toy/language", "width": 48, "heads": 4},
            "template": "plain",
        },
        "stages": [
            {
                "name": "s",
                "objective": "caption",
                "data": [sheet],
                # Gates start at 0, and nothing is seen before they open.
                "train": {"vision": {"lr": 4e-3}, "connector": {"lr": 2e-2}, "language": {"lr": 4e-3}},
                "batch_size": 16,
                "steps": 60 if architecture == "unified" else 90,
                "warmup": 0.1,
            }
        ],
    }


@pytest.mark.slow
@pytest.mark.parametrize("architecture", CHAINS)
def test_the_loss_falls_because_the_model_looks(architecture: str, tmp_path: Path) -> None:
    plan = load_recipe(recipe(architecture))
    result = train(plan, output=tmp_path)
    first, last = result.losses[0], sum(result.losses[-5:]) / 5
    assert first > 4
    assert last < 0.2
    choice = plan.stages[0].data[0]
    heldout = choice.component.load_factory()(choice.config.model_copy(update={"split": "heldout"}))
    samples = [heldout[index] for index in range(len(heldout))]
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.turns[-1].text, []).append(sample)
    flags, animals = groups["flags"][:16], groups["animals-nature"][:16]
    true = [*flags, *animals]
    swapped = [
        Sample(id=s.id, turns=s.turns, images=other.images, source=s.source)
        for s, other in zip(true, [*animals, *flags], strict=True)
    ]
    shown, shuffled = (loss(result.model, plan, rows) for rows in (true, swapped))
    assert shown < 0.5 * shuffled, (shown, shuffled)


def loss(model: Any, plan: Any, rows: list[Sample]) -> float:
    """The mean loss of a supervised token."""
    processor = model.processor
    objective = plan.stages[0].objective
    collate = Collator(
        objective=objective.component.load_factory()(objective.config),
        template=processor.template,
        tokenizer=processor.tokenizer,
        image_token=processor.image_token,
        images=processor.images,
        max_length=1000,
    )
    with torch.no_grad():
        return float(model(**collate(rows)).loss)
