"""Every family of vision encoder against its own library, and the page that says so against a fresh run."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

FILE = Path(__file__).parents[2] / "benchmarks" / "encoder_families.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("encoder_families", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


survey = _load()
FAMILIES = survey.families()
THROUGH_THE_KIT = ("pixtral", "sam_vision_model", "ResNet")
"""A few of each build; `python benchmarks/encoder_families.py` takes all through it."""


STALE = "run `python benchmarks/encoder_families.py` and commit the page"


@pytest.fixture(scope="module")
def written() -> dict[tuple[str, str], list[str]]:
    """The rows of the committed page."""
    rows = {}
    for line in survey.PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8:
            rows[cells[0], cells[1]] = cells
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family.component}-{family.name}")
def test_a_family_is_its_librarys_and_the_page_says_so(family: Any, written: dict[tuple[str, str], list[str]]) -> None:
    row = survey.look(family, kit=family.name in THROUGH_THE_KIT)
    assert row.difference == 0.0
    *fresh, kit = row.cells()
    *committed, kit_committed = written[family.component, family.name]
    assert fresh == committed, STALE
    assert kit in ("", kit_committed), STALE
    passed, run = re.fullmatch(r"(\d+) of (\d+)", kit_committed).groups()
    assert passed == run


def test_the_page_has_every_family_and_no_other(written: dict[tuple[str, str], list[str]]) -> None:
    named = {(family.component, family.name) for family in FAMILIES}
    assert set(written) - {("component", "family"), ("---", "---")} == named
    assert len(named) >= 70 and set(THROUGH_THE_KIT) <= {family.name for family in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("name", survey.REFUSED)
def test_a_family_that_does_not_work_is_refused_and_the_page_says_why(name: str) -> None:
    assert f"| {name} | {survey.cell(survey.refusal(name))} |" in survey.PAGE.read_text(encoding="utf-8")


def test_a_difference_is_seen() -> None:
    """The comparison is not blind: a state of another layer is not that of the last."""
    family = next(family for family in FAMILIES if family.name == "vit")
    encoder = family.build()
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        library = survey.states(encoder, pixels)
        assert survey._difference(encoder, library[-2], pixels) > 1e-3
