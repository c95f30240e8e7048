"""Results of environments are read from pytest's report, replace the earlier row, and are what the page says."""

import json
import subprocess
import sys
from pathlib import Path

import environment_results
import pytest
import run_tier
from environment_results import ENVIRONMENTS, PAGE, RESULTS, ROOT, page, read_junit, write

TESTS = """
import pytest

def test_good():
    pass

@pytest.mark.parametrize("number", [1, 2])
def test_bad(number):
    raise TypeError("no `cache` | here\\nsecond line")

def test_skipped():
    pytest.skip("not here")

@pytest.fixture
def broken():
    yield
    raise OSError("at the end")

def test_breaks_at_its_end(broken):
    pass
"""


def result(**changes: object) -> dict:
    made = {"date": "2026-11-30", "python": "3.11.7", "versions": {"torch": "2.14.1"}, "cpu_minutes": 1.5}
    return made | {"passed": 3, "skipped": 2, "failed": 0, "failures": {}} | changes


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(environment_results, "RESULTS", tmp_path / "environments.json")
    monkeypatch.setattr(environment_results, "PAGE", tmp_path / "environments.md")
    return tmp_path


def test_a_report_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1", "--junitxml=r.xml"]
    subprocess.run([*command, "test_it.py"], cwd=tmp_path, capture_output=True, check=False)
    assert read_junit(tmp_path / "r.xml") == {
        "passed": 1,
        "skipped": 1,
        "failed": 3,
        "failures": {
            "test_it.py::test_bad[1]": "TypeError: no `cache` | here",
            "test_it.py::test_bad[2]": "TypeError: no `cache` | here",
            "test_it.py::test_breaks_at_its_end": 'failed on teardown with "OSError: at the end"',
        },
    }


def test_a_run_replaces_the_row_of_its_environment_alone(elsewhere: Path) -> None:
    write("newest", result(passed=7))
    write("locked", result(passed=8))
    write("newest", result(passed=9))
    kept = json.loads((elsewhere / "environments.json").read_text())
    assert [(name, kept[name]["passed"]) for name in kept] == [("locked", 8), ("newest", 9)]
    rows = [line for line in (elsewhere / "environments.md").read_text().splitlines() if line.startswith("| [")]
    assert rows == [
        "| [locked](#locked) | 2026-11-30 | 3.11.7 | 2.14.1 | - | - | - | - | - | - | - | - | 8 | 2 | 0 | 1.5 |",
        "| [newest](#newest) | 2026-11-30 | 3.11.7 | 2.14.1 | - | - | - | - | - | - | - | - | 9 | 2 | 0 | 1.5 |",
    ]


def test_failures_of_one_kind_stand_together() -> None:
    failures = {"tests/a.py::test_x[1]": "no `cache`", "tests/a.py::test_x[2]": "no `cache`", "tests/b.py::test_y": ""}
    text = page({"oldest": result(failed=3, failures=failures)})
    assert "- `tests/a.py`: `test_x[1]`, `test_x[2]`\n\n    `` no `cache` ``\n\n- `tests/b.py`: `test_y`\n" in text
    assert "Nothing failed." in page({"oldest": result()})


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_a_run_that_says_nothing_leaves_the_row(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(run_tier, "run", lambda environment, workers, report: code)
    monkeypatch.setattr(sys, "argv", ["run_tier.py", "locked"])
    with pytest.raises(SystemExit, match=str(code)):
        run_tier.main()
    assert not list(elsewhere.iterdir())


def test_the_tier_is_there() -> None:
    assert all((ROOT / path).exists() for path in run_tier.TIER)
    assert {"torch", "torchvision", "transformers", "pydantic"} <= set(run_tier.versions())


def test_the_page_is_made_from_the_results() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert set(results) == set(ENVIRONMENTS)
    assert PAGE.read_text(encoding="utf-8") == page(results)
