"""Who looks at a model while it trains changes nothing of it, and goes on looking where a run goes on."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from resumable import Killed, assert_same, outcome, recipe, stop_after, write_rows

from vlmzoo.model.vlm import VLM
from vlmzoo.training.observer import observed
from vlmzoo.training.train import train


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"))


class Meddler:
    """Draws from every generator, changes modes and speaks."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, model: VLM, step: int) -> None:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        self.steps.append(step)
        torch.rand(3)
        np.random.rand(3)
        random.random()
        model.train()
        model.generate(**model.processor(text="what?"), max_new_tokens=3, do_sample=True)
        model.language.eval()


def test_the_weights_are_the_same_with_and_without(rows: Path, tmp_path: Path) -> None:
    train(recipe(rows), output=tmp_path / "alone")
    meddler = Meddler()
    train(recipe(rows), output=tmp_path / "observed", observer=meddler)
    assert_same(outcome(tmp_path / "alone"), outcome(tmp_path / "observed"))
    assert meddler.steps == [*range(5), *range(5)]  # of each of two stages


def test_it_goes_on_where_the_run_goes_on(rows: Path, tmp_path: Path) -> None:
    first, second = Meddler(), Meddler()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, "align", 3)
        with pytest.raises(Killed):
            train(recipe(rows), output=tmp_path, observer=first)
    train(recipe(rows), output=tmp_path, observer=second)
    assert first.steps == [0, 1, 2]
    assert second.steps == [2, 3, 4, *range(5)]  # saved after two steps


def seed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)


def draws() -> list[float]:
    return [float(torch.rand(1)), float(np.random.rand()), random.random()]


def test_modes_and_generators_are_as_before() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2), torch.nn.Dropout())
    model[2].eval()
    seed()
    expected = draws()
    seed()
    with observed(model):
        model.train()
        draws()
    assert [module.training for module in model] == [True, True, False]
    assert draws() == expected
