"""Every registered component passes every check of its kind; how many of each were carried out is counted and has a floor."""

from collections import Counter

import pytest

from vlmzoo.conformance import check_component
from vlmzoo_registry import default_catalogue

COMPONENTS = default_catalogue().components()

FLOORS = {
    "vision_encoder": (5, 12),
    "connector": (6, 12),
    "language_model": (2, 20),
    "layout": (8, 16),
    "objective": (2, 6),
    "template": (4, 11),
    "dataset": (9, 6),
    "metric": (2, 7),
    "rule": (9, 6),
}
"""For each kind: how many components there are at least, and how many checks are carried out on each at least."""

MAY_NOT_APPLY = {
    "unused_parameters_get_no_gradient",
    "gradients_reach_every_parameter",
    "ids_and_embeddings_agree",
    "tiles_stand_row_by_row",
    "reads_what_it_declares",
    "rows_in_one_sequence_stay_apart",
}
"""Checks that some of our own components have no part in: no unused parameters, no parameters, no second way to logits, no
tiles, nothing that a language model reads beside text, no rows one after the other."""


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.full_name)
def test_component(component):
    report = check_component(component)
    print(f"\n{report.summary()}")
    report.raise_for_failures()
    _, floor = FLOORS[component.spec.kind]
    assert report.counts["run"] >= floor, report.summary()
    assert {result.name for result in report.results if result.status == "not-applicable"} <= MAY_NOT_APPLY
    assert report.counts["expected-fail"] == 0


def test_there_are_enough_components():
    counts = Counter(component.spec.kind for component in COMPONENTS)
    print(f"\n{len(COMPONENTS)} components: {', '.join(f'{count} {kind}' for kind, count in sorted(counts.items()))}")
    assert {kind: count for kind, (count, _) in FLOORS.items() if counts[kind] < count} == {}
    assert len(COMPONENTS) >= sum(count for count, _ in FLOORS.values())
