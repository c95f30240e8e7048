"""The eight-line plugin of the docs and the README is the file that runs here, and it is eight lines."""

from pathlib import Path

import pytest
from docs_pages import blocks

from vlmzoo.config import load_model
from vlmzoo_registry import Catalogue
from vlmzoo_registry.testing import run_checks

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "docs/examples/my_connector.py"


@pytest.mark.parametrize("page", ["README.md", "docs/plugins.md"])
def test_the_page_shows_the_file(page: str) -> None:
    text = (ROOT / page).read_text().replace(' title="my_connector.py"', "")
    assert f"```python\n{PLUGIN.read_text().rstrip()}\n```" in text


def test_the_page_shows_how_a_real_project_tests_its_parts() -> None:
    real = (ROOT / "tests/host/distributions/vlmzoo-rainbow/tests/test_conformance.py").read_text()
    shown = next(block for block in blocks(ROOT / "docs/plugins.md") if block.title == "tests/test_conformance.py")
    code = [line for line in shown.code.splitlines() if line]
    assert code[0] == "from vlmzoo_registry.testing import Check, parametrize_with_checks"
    assert code == [line for line in real.splitlines()[1:] if line]


def test_it_is_eight_lines() -> None:
    assert len([line for line in PLUGIN.read_text().splitlines() if line.strip()]) == 8


def test_it_passes_the_conformance_kit_and_builds_into_a_model() -> None:
    import torch

    from vlmzoo import build

    catalogue = Catalogue.discover(extra=[PLUGIN])
    component = catalogue.get("connector", "my_connector/narrow")
    report = run_checks(component)
    assert report.counts["failed"] == 0
    assert report.counts["passed"] >= 8
    config = load_model(
        {
            "architecture": "unified",
            "vision": "toy/vision",
            "connector": "narrow",
            "language": "toy/language",
            "template": "plain",
        },
        catalogue=catalogue,
    )
    model = build(config)
    batch = model.processor(text="a")
    with torch.no_grad():
        assert model(**batch).logits.isfinite().all()
