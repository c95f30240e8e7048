"""The table of busy machines is that of its result file, and each variant trains in an environment of its own."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from vlmzoo.openmp import SPIN_BOUNDS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("busy_benchmark", BENCHMARKS / "busy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_result_file(benchmark: ModuleType) -> None:
    shown, _, behind = benchmark.README.read_text().partition(benchmark.BEGIN)[2].partition(benchmark.END)
    measured = benchmark.RESULTS.read_text()
    found = json.loads(measured)
    assert shown.strip() == benchmark.table(found)
    assert str(Path.home()) not in measured
    slowest = {variant: f"{found['busy']['ranges'][variant][1]:.1f} s" for variant in ("default", "bounded")}
    assert f"took {slowest['default']} a step by default, and {slowest['bounded']} with the bound" in behind
    told = (benchmark.README.parents[1] / "docs" / "changes" / "busy-machines.md").read_text()
    assert (
        f"took {slowest['bounded']} instead of {slowest['default']}, those in the middle {found['busy']['faster']:.2f} " in told
    )


def test_the_variants_differ_in_what_bounds_them(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the shell has set."""

    class Begun(Exception):
        pass

    def begin(command: list[str], *, env: dict[str, str], **options: object) -> None:
        raise Begun({name: env.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", *SPIN_BOUNDS)})

    monkeypatch.setattr(benchmark.subprocess, "Popen", begin)
    for name in ("OMP_WAIT_POLICY", *SPIN_BOUNDS):
        monkeypatch.setenv(name, "7")
    for variant, bounds in (("default", dict.fromkeys(SPIN_BOUNDS)), ("bounded", SPIN_BOUNDS)):
        with pytest.raises(Begun) as begun, benchmark.trainer(benchmark.VARIANTS[variant]):
            pass
        assert begun.value.args == ({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": None, **bounds},)


def test_what_a_summary_says(benchmark: ModuleType) -> None:
    found = benchmark.summary({"default": [0.4, 0.1, 0.2], "bounded": [0.05, 0.1, 0.3]})
    assert found == {"default": 0.2, "bounded": 0.1, "ranges": {"default": [0.1, 0.4], "bounded": [0.05, 0.3]}, "faster": 2.0}
