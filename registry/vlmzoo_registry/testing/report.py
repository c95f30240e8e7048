"""What came of all the checks of one component, always with the counts: a kit that runs nothing must not look green."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmzoo_registry.component import Component
from vlmzoo_registry.testing.batteries import checks_for
from vlmzoo_registry.testing.check import CheckFailure, CheckFunction, Result


@dataclass(frozen=True)
class Report:
    """The results of a component, in the order of the checks."""

    component: Component
    results: tuple[Result, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many checks there are (`total`), how many were carried out (`run`), and how many ended in which way."""
        ended = Counter(result.status for result in self.results)
        return {
            "total": len(self.results),
            "run": len(self.results) - ended["not-applicable"],
            "passed": ended["passed"],
            "failed": ended["failed"],
            "expected-fail": ended["expected-fail"],
            "not-applicable": ended["not-applicable"],
        }

    @property
    def failures(self) -> tuple[Result, ...]:
        """The checks that failed and were not expected to."""
        return tuple(result for result in self.results if result.status == "failed")

    def summary(self) -> str:
        """The counts on one line."""
        counts = self.counts
        return (
            f"{self.component}: {counts['run']} of {counts['total']} checks run, {counts['passed']} passed, "
            f"{counts['failed']} failed, {counts['expected-fail']} failed as expected, "
            f"{counts['not-applicable']} not applicable"
        )

    def raise_for_failures(self) -> None:
        """Raise `CheckFailure` with every failure, its reason and what to do; nothing where there is none."""
        if self.failures:
            reasons = [f"{result.name}: {result.reason}; what to do: {result.remedy}" for result in self.failures]
            raise CheckFailure(self.summary(), reasons)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `vlmzoo check --json`."""
        return {
            "name": self.component.full_name,
            "kind": self.component.spec.kind,
            "distribution": self.component.distribution,
            "version": self.component.version,
            "counts": self.counts,
            "checks": [asdict(result) for result in self.results],
        }


def run_checks(
    component: Component,
    *,
    extra: Sequence[CheckFunction] = (),
    expected_failures: Mapping[str, str] | None = None,
) -> Report:
    """Apply every check of the component's kind, and those of `extra`; see `checks_for`."""
    checks = checks_for(component, extra=extra, expected_failures=expected_failures)
    return Report(component, tuple(check.examine() for check in checks))
