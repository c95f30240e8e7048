"""The requirements of `pyproject.toml` at their lower bounds, or with their upper bounds lifted.

`python tests/environments/declared_bounds.py oldest` prints what `make test-oldest` installs, `newest` what `make test-newest`
does: the runtime dependencies, the extras `arrow` and `quickstart`, and the tools of the extra `test`. There is no other list.
"""

import argparse
import tomllib
from collections.abc import Iterator
from pathlib import Path

from lock_file import LOCK, read_lock
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
TESTED_EXTRAS = ("arrow", "quickstart")
TOOLS = "test"
UPPER = ("<", "<=")


def main() -> None:
    """Print the requirements of one environment, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=("oldest", "newest"))
    environment = parser.parse_args().environment
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    lines = oldest(project, read_lock(LOCK.read_text(encoding="utf-8"))) if environment == "oldest" else newest(project)
    print("\n".join(lines))


def oldest(project: dict, lock: dict[str, str]) -> list[str]:
    """Every requirement at its lower bound exactly; the tools that run the tests are those of the lock."""
    tools = [pinned(tool, lock[canonicalize_name(tool.name)]) for tool in extra(project, TOOLS)]
    return [*(at_lower_bound(requirement) for requirement in tested(project)), *tools]


def newest(project: dict) -> list[str]:
    """Every requirement, tools included, without its upper bound."""
    return [without_upper_bound(requirement) for requirement in (*tested(project), *extra(project, TOOLS))]


def tested(project: dict) -> Iterator[Requirement]:
    """The runtime dependencies, and those of the extras that add parts or formats."""
    yield from map(Requirement, project["dependencies"])
    for name in TESTED_EXTRAS:
        yield from extra(project, name)


def extra(project: dict, name: str) -> Iterator[Requirement]:
    """The requirements that an extra adds itself, without the extras it is made of."""
    for text in project["optional-dependencies"][name]:
        requirement = Requirement(text)
        if canonicalize_name(requirement.name) != canonicalize_name(project["name"]):
            yield requirement


def at_lower_bound(requirement: Requirement) -> str:
    """The requirement at the lowest version that it allows."""
    bounds = [bound for bound in requirement.specifier if bound.operator in (">=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"pyproject.toml: `{requirement}` has {len(bounds)} lower bounds (`>=` or `==`), and must have one")
    return pinned(requirement, bounds[0].version)


def without_upper_bound(requirement: Requirement) -> str:
    """The requirement with its lower bound alone; an exact pin stays one."""
    kept = [bound for bound in requirement.specifier if bound.operator not in UPPER]
    return rewritten(requirement, ",".join(map(str, kept)))


def pinned(requirement: Requirement, version: str) -> str:
    """The requirement at one version."""
    return rewritten(requirement, f"=={version}")


def rewritten(requirement: Requirement, specifier: str) -> str:
    changed = Requirement(str(requirement))
    changed.specifier = SpecifierSet(specifier)
    return str(changed)


if __name__ == "__main__":
    main()
