"""The kit in a plugin's own pytest suite: one decorator, one test for each check, so that each has its own line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlmzoo_registry.catalogue import Catalogue, default_catalogue
from vlmzoo_registry.testing.batteries import checks_for
from vlmzoo_registry.testing.check import CheckFunction


def parametrize_with_checks(
    *names: str,
    kind: str | None = None,
    catalogue: Catalogue | None = None,
    extra: Sequence[CheckFunction] = (),
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Any]:
    """Parametrise a test over the checks of the components of these names; the test takes `check` and calls `check.run()`.

    `expected_failures` gives, for the name of a check, the reason why it fails for all these components; pytest then reports
    it as an expected failure, and as a failure once it passes. `kind` tells apart components of two kinds that share a name.

    Raises `ConfigError` while the tests are collected where a name is unknown, so that nothing is left out silently.
    """
    import pytest

    found = [(catalogue or default_catalogue()).get(kind, name) for name in names]
    if not found:
        raise TypeError("`parametrize_with_checks` needs at least one component's name")
    parameters = [
        pytest.param(
            check,
            id=f"{component.full_name}-{check.name}",
            marks=[] if check.expected_failure is None else [pytest.mark.xfail(strict=True, reason=check.expected_failure)],
        )
        for component in found
        for check in checks_for(component, extra=extra, expected_failures=expected_failures)
    ]
    return pytest.mark.parametrize("check", parameters)
