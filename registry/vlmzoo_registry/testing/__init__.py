"""The conformance kit: what every component must keep, as checks that plugin authors run in their own suites too.

With pytest, `@parametrize_with_checks("my_plugin/encoder")`; without it, `run_checks(component)` or `vlmzoo check NAME`.
"""

from vlmzoo_registry.testing.batteries import checks_for
from vlmzoo_registry.testing.check import Check, CheckFailure, CheckFunction, NotApplicable, Result, require
from vlmzoo_registry.testing.parametrize import parametrize_with_checks
from vlmzoo_registry.testing.report import Report, run_checks

__all__ = [
    "Check",
    "CheckFailure",
    "CheckFunction",
    "NotApplicable",
    "Report",
    "Result",
    "checks_for",
    "parametrize_with_checks",
    "require",
    "run_checks",
]
