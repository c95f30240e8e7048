"""However rows stand in a forward, padded, one after the other or packed, and however they are split: the same gradients."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from small_models import LLAMA, causal_lm, picture, section, shake
from torch import Tensor

import vlmzoo
from vlmzoo.config import StageConfig, TrainFull, TrainLora, load_recipe
from vlmzoo.data import Collator, Draw
from vlmzoo.model.vlm import VLM
from vlmzoo.training.micro_batch import MicroBatch, read_micro_batch
from vlmzoo.training.processes import join_processes
from vlmzoo.training.samples import Samples, make_collator
from vlmzoo.training.trainable import set_trainable
from vlmzoo.training.update import GlobalBatch, Gradients, unreached
from vlmzoo_registry.compat.transformers import enable_checkpointing
from vlmzoo_registry.tasks import Dataset, Sample, Turn

# How many images, and how many words are learnt: one row has thirty times what another has.
ROWS = [(1, 2), (0, 30), (3, 1), (2, 7), (0, 1), (1, 12), (0, 3), (2, 1)]
LONG = causal_lm(LLAMA | {"max_position_embeddings": 512})
WHOLE = [tuple(range(8))]
SPLITS = {
    "whole": WHOLE,
    "fours": [(0, 1, 2, 3), (4, 5, 6, 7)],
    "ones": [(number,) for number in range(8)],
    # What packs come to: several rows here, one there, of several pieces each, in another order.
    "packs": [(4, 0, 6), (1,), (7, 3, 5, 2)],
    "texts alone": [(1, 4, 6), (0, 2, 3, 5, 7)],
}


class Rows(Dataset):
    """Of `ROWS`; each second counts a quarter."""

    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> Sample:
        images, words = ROWS[index]
        turns = (Turn("user", "<image>" * images + "say"), Turn("assistant", "ab " * words))
        opened = tuple(partial(picture, 10 * index + place) for place in range(images))
        return Sample(str(index), turns, opened, source=f"rows:{index}", weight=0.25 if index % 2 else 1.0)


def stage_of(
    architecture: str, mode: str, train: Sequence[str] = ("vision", "connector", "language")
) -> tuple[Any, StageConfig]:
    plan = load_recipe(
        {
            "model": section(architecture, language=LONG) | {"template": "vicuna_v1"},
            "stages": [
                {
                    "name": "s",
                    "objective": "instruct",
                    "data": [{"name": "captions", "path": "none.jsonl", "images": "."}],
                    "train": {part: {"lr": 1e-3} for part in ("vision", "connector", "language")},
                    "batch_size": 8,
                    "steps": 1,
                    "batching": {"mode": mode},
                }
            ],
        }
    )
    return plan, plan.stages[0]


def micros(collate: Collator, split: Sequence[Sequence[int]]) -> list[MicroBatch]:
    """In float64."""
    found = []
    for share in split:
        micro = read_micro_batch(Samples([Rows()]), collate, [Draw(0, index) for index in share])
        exact = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in micro.tensors.items()}
        found.append(replace(micro, tensors=exact))
    return found


def update(model: VLM, stage: StageConfig, split: Sequence[Sequence[int]]) -> tuple[Gradients, dict[str, Tensor]]:
    states = set_trainable(model, dict(stage.train))
    model.zero_grad()
    made = GlobalBatch(join_processes(), model, states, stage).backward(micros(make_collator(model, stage), split))
    return made, {f"{s.name}.{name}": p.grad.clone() for s in states for name, p in s.trained.items() if p.grad is not None}


@pytest.fixture(scope="module", params=["unified", "cross_attention"])
def expected(request: pytest.FixtureRequest) -> tuple[str, VLM, Gradients, dict[str, Tensor]]:
    """All rows padded in one forward."""
    plan, stage = stage_of(request.param, "padded")
    torch.manual_seed(0)
    model = shake(vlmzoo.build(plan.model)).double()
    return request.param, model, *update(model, stage, WHOLE)


@pytest.mark.parametrize("mode", ["padded", "flatten"])
@pytest.mark.parametrize("split", SPLITS)
def test_rows_teach_the_same_however_they_stand(
    mode: str, split: str, expected: tuple[str, VLM, Gradients, dict[str, Tensor]]
) -> None:
    architecture, model, whole, gradients = expected
    _, stage = stage_of(architecture, mode)
    found, others = update(model, stage, SPLITS[split])
    assert (found.tokens, found.images) == (whole.tokens, whole.images) == (whole.tokens, 9)
    for name in ("loss", "nll", "z"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-6), "sums of float32, as logged"
    assert others.keys() == gradients.keys()
    largest = max(float(gradient.norm()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (others[name] - gradient).norm() <= 1e-10 * max(float(gradient.norm()), 1e-3 * largest), name
    assert sum(bool(gradient.any()) for gradient in gradients.values()) > 20


def test_a_mean_over_parts_would_be_far_off(expected: tuple[str, VLM, Gradients, dict[str, Tensor]]) -> None:
    """What the comparison would see of a denominator that is counted in each forward."""
    architecture, model, whole, _ = expected
    _, stage = stage_of(architecture, "flatten")
    alone = [update(model, stage, [share])[0].loss for share in SPLITS["packs"]]
    assert abs(sum(alone) / len(alone) - whole.loss) > 0.02 * whole.loss


# ---- parameters that rows do not reach -------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_what_a_loss_does_not_reach_is_what_gets_no_gradient(architecture: str, mode: str, checkpointing: bool) -> None:
    """Seen from the graph, before the backward pass; also where layers are run again in it."""
    plan, stage = stage_of(architecture, "padded")
    model = shake(vlmzoo.build(plan.model)).double()
    language = TrainLora(mode="lora", rank=2, lr=1e-3) if mode == "lora" else TrainFull(lr=1e-3)
    states = set_trainable(model, {"connector": TrainFull(lr=1e-3), "language": language})
    if checkpointing:
        enable_checkpointing(model)
    trained = {f"{s.name}.{name}": p for s in states for name, p in s.trained.items()}
    collate = make_collator(model, stage)
    for split, reached in (((1, 4), False), ((0, 1), True)):
        model.zero_grad()
        (micro,) = micros(collate, [split])
        tensors = {name: value for name, value in micro.tensors.items() if name != "sample_weights"}
        loss = model(**tensors).loss
        idle = {id(parameter) for parameter in unreached(loss, list(trained.values()))}
        loss.backward()
        assert {name for name, p in trained.items() if id(p) in idle} == {name for name, p in trained.items() if p.grad is None}
        assert any(name.startswith("connector.") for name, p in trained.items() if id(p) in idle) != reached
    constant = torch.zeros(())
    assert len(unreached(constant, list(trained.values()))) == len(trained)
