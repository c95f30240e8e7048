"""Whether what a component requires is installed: read from metadata, importing nothing."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement


def missing_requirements(requires: Iterable[str]) -> list[tuple[str, str]]:
    """The pip requirements that are not met, each with what is there instead: `not installed`, or the version installed."""
    missing = []
    for text in requires:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append((text, "not installed"))
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            missing.append((text, f"{installed} is installed"))
    return missing
