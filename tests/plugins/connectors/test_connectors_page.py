"""The page of the connectors' conformance is what `benchmarks/connectors.py` writes, and every connector passes."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest


def _load() -> Any:
    path = Path(__file__).parents[3] / "benchmarks" / "connectors.py"
    spec = importlib.util.spec_from_file_location("benchmark_connectors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


survey = _load()
WRITTEN = [line for line in survey.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| [")]


def test_the_page_has_every_connector_and_all_pass() -> None:
    named = [re.match(r"\| \[([^]]+)]", line)[1] for line in WRITTEN]
    assert named == [component.full_name for component in survey.connectors()]
    for line in WRITTEN:
        passed, run = re.search(r"\| (\d+) of (\d+) \|", line).groups()
        assert passed == run and int(run) >= 12, line


@pytest.mark.slow
def test_the_page_is_a_fresh_run() -> None:
    assert survey.page() == survey.PAGE.read_text(encoding="utf-8"), "run `python benchmarks/connectors.py` and commit the page"
