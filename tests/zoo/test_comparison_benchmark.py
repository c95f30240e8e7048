"""The comparison that people read in the README is the one of its result file."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from vlmzoo.comparison.plots import score_plots
from vlmzoo.comparison.result import Comparison
from vlmzoo.config import load_grid

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
GRID = ROOT / "zoo" / "vlmzoo" / "quickstart" / "grid.yaml"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("comparison_benchmark", BENCHMARKS / "comparison.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_grid_compares_four_ways_with_two_seeds():
    grid, _ = load_grid(GRID)
    assert [values["connector"] for values in grid.combinations()] == ["linear", "mlp", "resampler", "cross_attention"]
    assert grid.seeds == (0, 1)
    assert grid.quickstart and grid.budget.measure == "supervised_tokens"


@pytest.mark.skipif(not (BENCHMARKS / "results" / "comparison.json").exists(), reason="the shipped grid has not been run yet")
def test_the_readme_shows_the_result_file(benchmark):
    data = json.loads(benchmark.RESULT.read_text())
    comparison = Comparison.from_dict(data)
    readme = benchmark.README.read_text()
    assert readme.partition(benchmark.BEGIN)[2].partition(benchmark.END)[0].strip() == benchmark.section(comparison)
    assert comparison.failures == ()
    grid, _ = load_grid(GRID)
    kept, _ = load_grid({**data["grid"]})
    assert (kept.axes, kept.seeds, kept.budget, kept.evaluate) == (grid.axes, grid.seeds, grid.budget, grid.evaluate)
    assert str(Path.home()) not in benchmark.RESULT.read_text()
    for key in score_plots(comparison):
        assert (BENCHMARKS / "results" / f"comparison-{key}.svg").read_text().startswith("<svg")


def test_what_is_written_is_what_is_shown(benchmark, tmp_path, monkeypatch):
    from test_comparison_result import comparison

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter\n")
    (tmp_path / "results").mkdir()
    data = comparison().to_dict()
    data["grid"] = {**data["grid"], "base": "/somewhere", "evaluate": {"data": [{"path": "/somewhere/else"}], "limit": 3}}
    (tmp_path / "comparison.json").write_text(json.dumps(data))
    monkeypatch.setattr(benchmark, "README", readme)
    monkeypatch.setattr(benchmark, "RESULT", tmp_path / "results" / "comparison.json")
    monkeypatch.setattr("sys.argv", ["comparison.py", str(tmp_path)])
    benchmark.main()
    text = readme.read_text()
    assert text.startswith(f"before\n{benchmark.BEGIN}\n\n| combination |") and text.endswith(f"\n\n{benchmark.END}\nafter\n")
    assert "![tasks/exact against time](results/comparison-time.svg)" in text and "old" not in text
    assert "/somewhere" not in benchmark.RESULT.read_text()
    assert (tmp_path / "results" / "comparison-time.svg").read_text().startswith("<svg")
    benchmark.main()
    assert readme.read_text() == text
