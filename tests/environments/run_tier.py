"""Run the tests that touch the libraries, in the environment of this Python, and record what was found.

`python tests/environments/run_tier.py oldest` is what `make test-oldest` does once `.venv-oldest` is there. The exit code is
that of pytest.
"""

import argparse
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import requires, version
from pathlib import Path

from environment_results import ENVIRONMENTS, ROOT, SHOWN, read_junit, write
from packaging.requirements import Requirement

TIER = (
    "tests/conformance",
    "tests/parity",
    "tests/plugins",
    "tests/zoo/cli",
    "tests/zoo/exchange",
    "tests/zoo/model",
    "tests/zoo/test_checkpoint.py",
    "tests/zoo/test_instructed_models.py",
    "tests/zoo/test_prefix_models.py",
    "tests/zoo/test_templates_in_models.py",
    "tests/zoo/test_training_lora.py",
    "tests/zoo/test_training_modes.py",
)
"""Where the tests are that touch the libraries; those marked slow are left out. Five minutes on two free cores."""

WARNINGS = {"oldest": ("-W", "default::DeprecationWarning", "-W", "default::FutureWarning")}
"""Options of pytest for one environment: old libraries call deprecated what they use of each other, which newer ones mend. With
the newest it stays an error, since it says what breaks next."""


def main() -> None:
    """Run the tier, write the row, and leave with pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=tuple(ENVIRONMENTS))
    parser.add_argument("--workers", default="2", help="processes that run tests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        code = run(arguments.environment, arguments.workers, report)
        if code not in (0, 1):
            # Interrupted, or nothing was run: a row would say what is not so.
            sys.exit(code)
        result = {
            "date": datetime.now(UTC).date().isoformat(),
            "python": platform.python_version(),
            "versions": versions(),
            "cpu_minutes": cpu_minutes(),
            **read_junit(report),
        }
    write(arguments.environment, result)
    sys.exit(code)


def run(environment: str, workers: str, report: Path) -> int:
    """Run pytest on the tier; its exit code."""
    options = (
        *WARNINGS.get(environment, ()),
        "-m",
        "not slow",
        "-n",
        workers,
        "--dist",
        "worksteal",
        "-o",
        "junit_family=xunit1",
        f"--junitxml={report}",
    )
    return subprocess.run([sys.executable, "-m", "pytest", *options, *TIER], cwd=ROOT, check=False).returncode


def cpu_minutes() -> float:
    """What pytest and its workers computed: the same on a busy machine, where the wall clock says nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) / 60, 1)


def versions() -> dict[str, str]:
    """The versions of what vlmzoo requires, and of the libraries that the page shows."""
    requirements = map(Requirement, requires("vlmzoo") or ())
    names = [requirement.name for requirement in requirements if requirement.marker is None or requirement.marker.evaluate()]
    required = {name.replace("-", "_") for name in names}
    return {name: version(name) for name in sorted(required | set(SHOWN), key=str.lower)}


if __name__ == "__main__":
    main()
