"""The kit on layouts with other options than the tiny ones of their descriptions, and the list of what there is."""

from dataclasses import replace

import pytest

from vlmzoo_layouts.plugin import vlmzoo_components
from vlmzoo_registry import default_catalogue
from vlmzoo_registry.testing import run_checks


def test_names():
    names = sorted(spec.name for spec in vlmzoo_components())
    assert names == ["anyres", "canvas", "dynamic-tiles", "keep-ratio", "native", "split", "tagged-tiles", "whole"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("anyres", {"newline": False}),
        ("anyres", {"unpad": False}),
        ("anyres", {"grids": [[rows, columns] for rows in (1, 2, 3) for columns in (1, 2, 3)], "max_tiles": 2}),
        ("dynamic-tiles", {"min_tiles": 3, "max_tiles": 7}),
        ("dynamic-tiles", {"thumbnail": False}),
        ("split", {"longest_edge": 47}),
        ("native", {"longest_edge": 61}),
        ("canvas", {"max_tiles": 1}),
        ("tagged-tiles", {"max_tiles": 12}),
    ],
    ids=str,
)
def test_the_kit_passes(name, options):
    component = default_catalogue().get("layout", f"layouts/{name}")
    report = run_checks(replace(component, spec=component.spec.model_copy(update={"tiny": options})))
    report.raise_for_failures()
    assert report.counts["run"] >= 14, report.summary()
