"""Published classes taken apart into zoo parts and put together again: the arithmetic of `benchmarks/parity.py`, held to.

The cases and the measuring stand there, as the README shows their table.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import Gemma2Config

from vlmzoo import from_transformers, to_transformers
from vlmzoo.exchange.classes import EXCHANGES
from vlmzoo_registry import AssemblyError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_benchmark", BENCHMARKS / "parity.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


parity = load()
FIRST = {case.name: case for case in reversed(parity.CASES)}


@pytest.mark.parametrize("case", parity.CASES, ids=lambda case: f"{case.name}: {case.what}")
def test_logits_gradients_and_generated_ids_are_those_of_the_published_class(case) -> None:
    result = parity.measure(case)
    # PaliGemma counts positions from 1, the zoo from 0: only distances matter, but for rounding.
    assert result.logits <= (1e-5 if case.name == "PaliGemma" else 0.0)
    assert result.loss <= 1e-5
    assert result.gradient <= 1e-5
    assert result.gradients > 60
    assert result.same_ids


def test_gemma_2_is_refused_where_the_class_leaves_its_soft_cap_out() -> None:
    published = parity.paligemma(Gemma2Config, sliding_window=8)()
    if parity.CAPPED:
        from_transformers(published)
    else:
        with pytest.raises(AssemblyError, match="PaliGemmaForConditionalGeneration and the zoo model give other logits"):
            from_transformers(published)


def test_every_class_is_among_the_cases() -> None:
    assert {exchange.name for exchange in EXCHANGES} == {case.name for case in parity.CASES}


@pytest.mark.parametrize("name", FIRST)
def test_back_again_it_is_the_same_model(name: str) -> None:
    published = FIRST[name].make()
    exported = to_transformers(from_transformers(published))
    assert type(exported.model) is type(published)
    assert exported.difference <= (1e-5 if name == "PaliGemma" else 0.0)
    again = exported.model.state_dict()
    assert again.keys() == published.state_dict().keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in published.state_dict().items())
    for part in ("vision_config", "text_config"):
        one, other = (getattr(model.config, part).to_dict() for model in (exported.model, published))
        assert {**one, "dtype": None} == other


def test_a_wrong_weight_is_seen() -> None:
    """The comparison can fail: one tensor changed moves logits and gradients far beyond the tolerance."""
    case = FIRST["Llava"]

    def changed() -> torch.nn.Module:
        model = case.make()
        zoo = parity.from_transformers

        def tampered(published: torch.nn.Module) -> torch.nn.Module:
            made = zoo(published)
            with torch.no_grad():
                made.connector[0].module[2].weight[0, 0] += 1
            return made

        parity.from_transformers = tampered
        return model

    original = parity.from_transformers
    try:
        result = parity.measure(parity.Case(case.name, case.what, changed))
    finally:
        parity.from_transformers = original
    assert result.logits > 1e-2
    assert result.gradient > 1e-4


def test_the_tables_are_those_of_the_results() -> None:
    report = json.loads(parity.RESULTS.read_text())
    results = [parity.Result(**case) for case in report["cases"]]
    measured = [(result.name, result.what) for result in results]
    if not parity.CAPPED:
        measured.remove(("PaliGemma", "Gemma 2"))
    assert measured == [(case.name, case.what) for case in parity.CASES]
    assert parity.table(results) in parity.README.read_text()
