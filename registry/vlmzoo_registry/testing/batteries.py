"""Which checks a component must pass: chosen by its kind and its capabilities, as its description has them."""

from collections.abc import Iterator, Mapping, Sequence

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import ConfigError
from vlmzoo_registry.suggest import did_you_mean
from vlmzoo_registry.testing import (
    common_checks,
    connector_checks,
    dataset_checks,
    instructed_checks,
    language_checks,
    layers_checks,
    layout_checks,
    metric_checks,
    objective_checks,
    part_checks,
    reading_checks,
    rule_checks,
    template_checks,
    vision_checks,
)
from vlmzoo_registry.testing.check import Check, CheckFunction

LAYOUT_PARTS: tuple[CheckFunction, ...] = (
    part_checks.builds_on_meta,
    part_checks.is_deterministic,
    part_checks.gradients_reach_every_parameter,
    part_checks.refuses_wrong_shapes,
    *part_checks.PASSING,
)
"""Of the rules for parts, those for a layout: the rows of its input are the views of one image, and no image is another's."""

BATTERIES: dict[str, tuple[CheckFunction, ...]] = {
    "vision_encoder": (*part_checks.CHECKS, *part_checks.RESOLVED, *vision_checks.CHECKS),
    "connector": (*part_checks.CHECKS, *part_checks.PASSING, *connector_checks.CHECKS),
    "connector with layers": (*part_checks.CHECKS, *part_checks.PASSING, *layers_checks.CHECKS),
    "language_model": (
        *part_checks.CHECKS,
        *part_checks.PASSING,
        *part_checks.RESOLVED,
        *language_checks.CHECKS,
        *reading_checks.CHECKS,
    ),
    "layout": (*LAYOUT_PARTS, *layout_checks.CHECKS),
    "template": template_checks.CHECKS,
    "objective": objective_checks.CHECKS,
    "dataset": dataset_checks.CHECKS,
    "metric": metric_checks.CHECKS,
    "rule": rule_checks.CHECKS,
}
"""The checks of each kind, besides those of all. A kind that is not here (a plugin may bring one) has only those of all."""

INSTRUCTED = instructed_checks.CHECKS
"""Of a connector of the capability `text`, besides those of its kind."""


def battery_of(component: Component) -> tuple[CheckFunction, ...]:
    """The checks that apply to a component."""
    kind = component.spec.kind
    if kind == "connector" and "layers" in component.spec.capabilities:
        kind = "connector with layers"
    if kind not in BATTERIES:
        return common_checks.CHECKS
    more = INSTRUCTED if kind == "connector" and "text" in component.spec.capabilities else ()
    return (*common_checks.CHECKS, common_checks.builds_tiny_offline, *BATTERIES[kind], *more)


def checks_for(
    component: Component,
    *,
    extra: Sequence[CheckFunction] = (),
    expected_failures: Mapping[str, str] | None = None,
) -> Iterator[Check]:
    """The checks of a component, and those of `extra` after them.

    `expected_failures` maps the names of checks to the reasons why this component fails them.

    Raises `ConfigError` for an expected failure that names no check of this component or gives no reason.
    """
    functions = (*battery_of(component), *extra)
    expected = dict(expected_failures or {})
    names = [function.__name__ for function in functions]
    reasons = [f"`{name}` is no check of {component}{did_you_mean(name, names)}" for name in expected if name not in names]
    reasons += [f"`{name}` needs a reason" for name, reason in expected.items() if not reason.strip()]
    if reasons:
        raise ConfigError("these failures cannot be expected:", reasons)
    for function in functions:
        yield Check(component, function, expected.get(function.__name__))
