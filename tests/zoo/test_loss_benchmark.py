"""The loss benchmark compares equals, and the table that people read is the one its result file gives."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("loss_benchmark", BENCHMARKS / "loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_all_variants_compute_the_same(benchmark, dtype, tolerance):
    stage = benchmark.Stage(300, dtype)
    expected = stage.step("full", 20)
    gradients = [stage.hidden.grad.double(), stage.head.weight.grad.double()]
    for variant in benchmark.VARIANTS:
        assert stage.step(variant, 20) == pytest.approx(expected, rel=tolerance)
        for gradient, other in zip([stage.hidden.grad, stage.head.weight.grad], gradients, strict=True):
            assert (gradient.double() - other).abs().max() <= 2 * tolerance * other.abs().max()


@pytest.mark.parametrize("share", [10, 20, 30, 100])
def test_the_share_is_what_it_says(benchmark, share):
    targets = benchmark.Stage(300, "float32").targets(share)
    assert (targets != -100).float().mean().item() == pytest.approx(share / 100, abs=0.002)


def test_the_readme_shows_the_result_file(benchmark):
    report = json.loads((BENCHMARKS / "results" / "loss.json").read_text())
    readme = (BENCHMARKS / "README.md").read_text()
    assert readme.partition(benchmark.BEGIN)[2].partition(benchmark.END)[0].strip() == benchmark.table(report)


def test_the_result_file_holds_the_same_loss_for_all_variants(benchmark):
    results = json.loads((BENCHMARKS / "results" / "loss.json").read_text())["results"]
    cells = {
        (record["dtype"], record["vocabulary"], record["variant"], record["supervised_percent"]): record for record in results
    }
    assert len(cells) == len(results) == len(benchmark.DTYPES) * len(benchmark.VOCABULARIES) * len(benchmark.cells())
    for dtype in benchmark.DTYPES:
        for vocabulary in benchmark.VOCABULARIES:
            losses = [cells[dtype, vocabulary, variant, benchmark.RECOMPUTED_SHARE]["loss"] for variant in benchmark.VARIANTS]
            assert max(losses) - min(losses) <= 1e-5 * max(losses)
