"""Installed libraries outside of the versions that vlmzoo is tested with, and notes on the errors that come from them.

The range of each is the requirement in vlmzoo's own installed metadata.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, ParamSpec, TypeVar

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

P = ParamSpec("P")
R = TypeVar("R")

SUSPECT = (TypeError, AttributeError, ImportError)
"""Errors that a renamed argument, attribute or module of a library ends in."""


@dataclass(frozen=True)
class UntestedVersion:
    """A library, the version installed, the range tested (`>=5.17,<5.25`), and the command that installs one of these."""

    name: str
    installed: str
    tested: str

    @property
    def remedy(self) -> str:
        """The pip command, quoted for a shell."""
        return f'pip install "{self.name}{self.tested}"'

    def __str__(self) -> str:
        return (
            f"{self.name} {self.installed} is not among the versions that vlmzoo is tested with ({self.tested}): {self.remedy}"
        )


def untested_versions() -> list[UntestedVersion]:
    """List the requirements of vlmzoo that are installed in a version outside of their range; reads metadata alone."""
    try:
        requirements = map(Requirement, requires("vlmzoo") or ())
    except PackageNotFoundError:
        return []
    found = []
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            # The lower bound first: `>=` sorts behind `<`.
            tested = ",".join(sorted(map(str, requirement.specifier), reverse=True))
            found.append(UntestedVersion(requirement.name, installed, tested))
    return found


def version_notes(error: BaseException) -> list[str]:
    """Name each library outside of its tested range that the error, or what caused it, comes from or passes through.

    Args:
        error: Only a `TypeError`, an `AttributeError` or an `ImportError` in its chain of causes is looked at.
    """
    causes = [cause for cause in _causes(error) if isinstance(cause, SUSPECT)]
    untested = untested_versions() if causes else []
    if not untested:
        return []
    involved = {module for cause in causes for module in _modules(cause)}
    installed_by = packages_distributions()
    owners = {canonicalize_name(name) for module in involved for name in installed_by.get(module, ())}
    return [str(library) for library in untested if canonicalize_name(library.name) in owners]


def with_version_notes(function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a public function so that its errors carry `version_notes` as notes."""

    @functools.wraps(function)
    def noted(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            # One public function may call another.
            for note in version_notes(error):
                if note not in getattr(error, "__notes__", ()):
                    error.add_note(note)
            raise

    return noted


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, what it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _modules(error: BaseException) -> Iterator[str]:
    """Yield the top-level modules that the error passes, those its last function names, and the owner of what is missing."""
    traceback = error.__traceback__
    while traceback is not None:
        names = traceback.tb_frame.f_globals
        yield _top(names.get("__name__", ""))
        if traceback.tb_next is None:
            # A wrong argument is refused where the call stands, before the library's function has a frame.
            yield from _named_in(traceback.tb_frame.f_code, names)
        traceback = traceback.tb_next
    if isinstance(error, ImportError):
        yield _top(error.name or "")
    if isinstance(error, AttributeError):
        yield _module_of(error.obj if isinstance(error.obj, ModuleType) else type(error.obj))


def _named_in(code: CodeType, names: dict[str, Any]) -> Iterator[str]:
    """Yield the top-level modules of the global names that a function uses."""
    for name in code.co_names:
        if name in names:
            yield _module_of(names[name])


def _module_of(value: Any) -> str:
    """The top-level module that a module, class or function belongs to; empty for any other value."""
    if isinstance(value, ModuleType):
        return _top(value.__name__)
    return _top(value.__module__ or "") if isinstance(value, type | FunctionType | BuiltinFunctionType) else ""


def _top(module: str) -> str:
    return module.partition(".")[0]
