"""Installs genuine plugin projects from outside the repository, as their users would."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

DISTRIBUTIONS = Path(__file__).parent / "distributions"

# The projects' own tests run where the projects are installed: see `test_out_of_tree.py`.
collect_ignore = ["distributions"]


@dataclass(frozen=True)
class Installed:
    """Where the projects `vlmzoo-rainbow` and `vlmzoo-broken` are installed.

    `site` is the folder they were installed into; `environment` the variables with which a new process finds them.
    """

    site: Path
    environment: dict[str, str]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments where the projects are found."""
        return subprocess.run(
            [sys.executable, *arguments], env=self.environment | variables, capture_output=True, text=True, cwd=self.site.parent
        )

    def vlmzoo(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command line where the projects are found."""
        return self.run("-c", "from vlmzoo.cli import main; main()", *arguments, **variables)


@pytest.fixture(scope="session")
def installed_distributions(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Both projects, installed by pip: built by their own back end, from nothing but what is here."""
    folder = tmp_path_factory.mktemp("installed")
    site = folder / "site"
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--quiet", "--disable-pip-version-check"]
    projects = [str(DISTRIBUTIONS / name) for name in ("vlmzoo-rainbow", "vlmzoo-broken")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(site), *projects], check=True)
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")])),
        "VLMZOO_CACHE": str(folder / "cache"),
    }
    return Installed(site, os.environ | variables)
