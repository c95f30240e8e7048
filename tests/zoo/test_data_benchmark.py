"""The tables of the order of batches are those of their result file, and what they claim can be measured again."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("data_benchmark", BENCHMARKS / "data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_result_file(benchmark: ModuleType) -> None:
    data = json.loads(benchmark.RESULTS.read_text())
    readme = benchmark.README.read_text()
    assert readme.partition(benchmark.BEGIN)[2].partition(benchmark.END)[0].strip() == benchmark.section(data)
    assert str(Path.home()) not in benchmark.RESULTS.read_text()
    losses = [row["loss"] for row in data["steps"].values()]
    assert max(losses) - min(losses) < 1e-4, "all ways learn the same"


def test_the_aims_are_met_again_on_a_part_of_the_mix(benchmark: ModuleType) -> None:
    """Counted, not timed."""
    found = benchmark.mix(6_000)
    rows = {row["name"]: row for row in benchmark.orders(found)}
    packed = rows["`pack`, `max_tokens: 8192`"]
    assert packed["total"] == packed["sync_efficiency"] > 0.98, (
        "nothing is padded, and packs that are less full are done sooner"
    )
    assert packed["images_most_to_mean"] < 1.1
    assert abs(packed["length_of_neighbours"]) < 0.05
    assert rows["random, padded"]["total"] < rows["random, `flatten` (the default)"]["total"] < packed["total"]
    assert rows["`group_by: length`, padded"]["total"] > rows["transformers' `group_by_length`, padded"]["total"]


def test_figures_of_an_order_that_can_be_worked_out(benchmark: ModuleType) -> None:
    """Two processes would wait: one has rows of 10 and 30 tokens, the others of 10 and 10."""
    lengths = benchmark.Lengths((10, 30, *(10,) * 14, *(20,) * 16), (1, 0) * 16)
    found = benchmark.Mix(lengths, ("a",) * 24 + ("b",) * 8)
    steps = [[[2 * rank + 16 * step, 2 * rank + 1 + 16 * step] for rank in range(8)] for step in range(2)]
    row = benchmark.measured(steps, found, benchmark.padded(found))
    assert row["token_efficiency"] == round((40 + 7 * 20 + 8 * 40) / (60 + 7 * 20 + 8 * 40), 4)
    assert row["sync_efficiency"] == round((60 + 7 * 20 + 8 * 40) / (8 * (60 + 40)), 4)
    flat = benchmark.measured(steps, found, benchmark.flat(found))
    assert (flat["token_efficiency"], flat["most_tokens"]) == (1, 40)
    assert flat["sync_efficiency"] == round((40 + 7 * 20 + 8 * 40) / (8 * (40 + 40)), 4)
    assert row["images_most_to_mean"] == 1
    assert row["largest_source"] == 0.75
