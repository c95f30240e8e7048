"""Runs that keep the features of a frozen encoder, and what tests count and damage in them."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import picture, section

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.data import Collator
from vlmzoo.feature_cache.prepare import Wanted, features_folder, prepare_features
from vlmzoo.feature_cache.reader import FeatureReader
from vlmzoo.model.vlm import VLM
from vlmzoo.training.samples import Samples, make_collator, stage_samples
from vlmzoo_registry import VisionEncoder

SIZES = [(40, 40), (40, 120), (100, 40), (90, 90)]  # width, height


def write_mixed_rows(root: Path) -> Path:
    """Rows of one image, of two, of none, and of one that another row has too; images of several sizes."""
    root.mkdir(exist_ok=True)
    for number, size in enumerate(SIZES):
        picture(number, 120).crop((0, 0, *size)).save(root / f"{number}.png")
    shown = [["0.png"], ["1.png", "2.png"], [], ["3.png"], ["0.png"]]
    rows = [
        {
            "id": str(number),
            "messages": [
                {"role": "user", "content": "<image>" * len(images) + "say"},
                {"role": "assistant", "content": "so many words"[: 3 + number]},
            ],
            "images": images,
        }
        for number, images in enumerate(shown)
    ]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def mixed_recipe(root: Path, model: dict[str, Any] | None = None, **stage: Any) -> dict[str, Any]:
    """One stage on these rows; connector and language model train."""
    return {
        "model": section() | {"template": "vicuna_v1"} if model is None else {**model, "template": "vicuna_v1"},
        "seed": 3,
        "stages": [
            {
                "name": "s",
                "objective": "instruct",
                "data": [{"name": "chat", "path": str(root / "rows.jsonl"), "images": str(root)}],
                "train": {"connector": {"lr": 1e-2}, "language": {"lr": 1e-2}},
                "batch_size": 6,
                "micro_batch": 3,
                "steps": 3,
                **stage,
            }
        ],
    }


@dataclass
class Prepared:
    """A model, its samples, and collators of pixels and of features."""

    model: VLM
    samples: Samples
    pixels: Collator
    features: Collator
    reader: FeatureReader


def freeze(model: VLM) -> VLM:
    """As a stage that does not train the encoder leaves it."""
    model.vision.requires_grad_(False)
    model.train()
    return model


def built(plan: dict[str, Any]) -> VLM:
    """The model of a recipe, with the weights that its seed gives, the encoder frozen."""
    torch.manual_seed(plan["seed"])
    return freeze(vlmzoo.build(plan["model"]))


def prepared(
    plan: dict[str, Any],
    model: VLM | None = None,
    *,
    rank: int = 0,
    ranks: int = 1,
    exchange: Callable[[list[Wanted]], list[list[Wanted]]] = lambda mine: [mine],
) -> Prepared:
    """What a run does before its first step."""
    recipe = load_recipe(plan)
    stage = recipe.stages[0]
    model = built(plan) if model is None else model
    samples = stage_samples(stage)
    reader = prepare_features(
        model,
        samples,
        range(len(samples)),
        stage=stage.name,
        precision=stage.precision,
        batch_size=stage.micro_batch,
        threads=stage.workers,
        share=(rank, ranks),
        exchange=exchange,
        wait=lambda: None,
        console=None,
    )
    return Prepared(model, samples, make_collator(model, stage), make_collator(model, stage, images=reader), reader)


@contextmanager
def counted_views() -> Iterator[list[int]]:
    """The number of views of each forward of a vision encoder of the toy plugin meanwhile."""
    from vlmzoo_toy.vision import ToyVision

    seen: list[int] = []
    forward = ToyVision.forward

    def counting(self: VisionEncoder, pixels: torch.Tensor) -> Any:
        seen.append(len(pixels))
        return forward(self, pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyVision, "forward", counting)
        yield seen


def shards() -> list[Path]:
    """The files of features in the cache folder."""
    return sorted(features_folder().glob("*/*.safetensors"))
