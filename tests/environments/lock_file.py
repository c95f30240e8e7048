"""The lock: `constraints.txt`, with the version of every distribution of an environment.

`make lock` runs this in a fresh environment that was installed without constraints. Only the standard library is used.
"""

import platform
import re
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

LOCK = Path(__file__).parents[2] / "constraints.txt"
PROJECT = "vlmzoo"

HEADER = """\
# The versions that vlmzoo is developed and tested with: everything that `make` installs, pip and the build backend included.
# Every target of the Makefile installs with `-c constraints.txt`, so that a clone runs as it did on the day of its commit.
# Written by `make lock` with CPython {python} on {system} {machine}; what other systems need besides is not pinned here.
"""


def main() -> None:
    """Write the lock of the environment that runs this."""
    header = HEADER.format(python=platform.python_version(), system=platform.system(), machine=platform.machine())
    pins = locked(distributions())
    LOCK.write_text(header + "".join(f"{name}=={version}\n" for name, version in sorted(pins.items())), encoding="utf-8")
    print(f"{LOCK.name}: {len(pins)} distributions", file=sys.stderr)


def locked(found: Iterable[Distribution]) -> dict[str, str]:
    """The version of each distribution by its normalized name, without the project itself.

    The label of a local build is cut off (`2.14.1+cpu`): an index that others install from has no such build, and a
    constraint without the label is met by one.
    """
    pins: dict[str, str] = {}
    for distribution in found:
        name = normalized(distribution.metadata["Name"])
        if name != PROJECT:
            # The first on the path is what Python imports.
            pins.setdefault(name, distribution.version.partition("+")[0])
    return pins


def read_lock(text: str) -> dict[str, str]:
    """The pins of a lock's text by normalized name; any other line than a comment or a pin is a `ValueError`."""
    pins: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
        if pin is None:
            raise ValueError(f"line {number} of the lock is no `name==version`: `{line}`")
        pins[normalized(pin[1])] = pin[2]
    return pins


def normalized(name: str) -> str:
    """A distribution's name as packaging's `canonicalize_name` gives it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
