"""One rule of the conformance kit, applied to one component; a rule is a function whose docstring explains it.

The docstring has three parts: the rule, a paragraph that begins with `Why:`, and one that begins with `If it fails:`.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from unittest import SkipTest

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import PluginError
from vlmzoo_registry.report import failure
from vlmzoo_registry.testing.isolation import isolated

CheckFunction = Callable[[Component], None]
"""A rule: returns where the component keeps it, and raises `CheckFailure` or `NotApplicable` otherwise."""

Status = Literal["passed", "failed", "expected-fail", "not-applicable"]


class CheckFailure(PluginError):
    """A component breaks a rule; the message says how, with the numbers of both sides."""


class NotApplicable(SkipTest):
    """A rule has nothing to say about this component; the message says why. pytest counts it as skipped."""


def require(kept: bool, message: str, reasons: Sequence[str] = ()) -> None:
    """Raise `CheckFailure` unless the rule is kept."""
    if not kept:
        raise CheckFailure(message, reasons)


@dataclass(frozen=True)
class Result:
    """What came of one check. `reason` says why it failed or does not apply, and is empty where it passed.

    `rule`, `why` and `remedy` are the three parts of the check's docstring.
    """

    name: str
    status: Status
    reason: str
    rule: str
    why: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """A rule and the component it is applied to.

    `expected_failure` is the reason why this component is known to break it, or None. Raises `TypeError` for a function
    whose docstring does not explain it.
    """

    component: Component
    function: CheckFunction
    expected_failure: str | None = None

    def __post_init__(self) -> None:
        for part in ("rule", "why", "remedy"):
            getattr(self, part)

    def __str__(self) -> str:
        return f"{self.component.full_name}: {self.name}"

    @property
    def name(self) -> str:
        """The name of the rule's function."""
        return self.function.__name__

    @property
    def rule(self) -> str:
        """What must hold, in a sentence or two."""
        return self._paragraph("")

    @property
    def why(self) -> str:
        """What goes wrong where it does not hold."""
        return self._paragraph("Why: ")

    @property
    def remedy(self) -> str:
        """What to do when the check fails."""
        return self._paragraph("If it fails: ")

    def run(self) -> None:
        """Apply the rule, with the same random numbers every time.

        Raises `CheckFailure` with the reason and what to do, whatever the component raised; `NotApplicable` where the rule
        does not apply. Whether the failure is expected makes no difference here.
        """
        result, error = self._apply()
        if result.status == "not-applicable":
            raise NotApplicable(result.reason)
        if result.status == "failed":
            explained = [f"the rule: {self.rule}", f"why: {self.why}", f"what to do: {self.remedy}"]
            raise CheckFailure(f"{self.component} fails `{self.name}`: {result.reason}", explained) from error

    def examine(self) -> Result:
        """Apply the rule and say what came of it; a failure that is expected counts as such, and one that stays away fails."""
        result, _ = self._apply()
        if self.expected_failure is None or result.status == "not-applicable":
            return result
        if result.status == "failed":
            return self._result("expected-fail", f"{self.expected_failure} ({result.reason})")
        return self._result("failed", f"it passes now, and was expected to fail ({self.expected_failure}): expect it no more")

    def _apply(self) -> tuple[Result, BaseException | None]:
        with isolated():
            try:
                self.function(self.component)
            except NotApplicable as error:
                return self._result("not-applicable", str(error)), error
            except CheckFailure as error:
                return self._result("failed", str(error)), error
            except (Exception, SystemExit) as error:
                return self._result("failed", failure(error)), error
        return self._result("passed", ""), None

    def _result(self, status: Status, reason: str) -> Result:
        return Result(self.name, status, reason, self.rule, self.why, self.remedy)

    def _paragraph(self, begin: str) -> str:
        paragraphs = [" ".join(text.split()) for text in inspect.cleandoc(self.function.__doc__ or "").split("\n\n")]
        if not begin and paragraphs[0]:
            return paragraphs[0]
        for paragraph in paragraphs[1:]:
            if begin and paragraph.startswith(begin):
                return paragraph.removeprefix(begin)
        missing = f"paragraph that begins with `{begin.strip()}`" if begin else "rule"
        raise TypeError(
            f"the docstring of check `{self.name}` has no {missing}: it says the rule, then why, then what to do if it fails"
        )
