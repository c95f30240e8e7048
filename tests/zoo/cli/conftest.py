"""Runs the command line as a user would: a process of its own, with a cache and plugins of the test's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = "from vlmzoo.cli import main; main()"


class CommandLine:
    """`vlmzoo` where the folder `site` holds installed distributions."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.site = folder / "site"
        self.site.mkdir()

    def install(self, distribution: str, plugin: str, text: str, version: str = "1.0") -> Path:
        """A distribution with one plugin, whose manifest has this text; returns its metadata folder."""
        module = f"fake_{distribution.replace('-', '_')}"
        (self.site / f"{module}.py").write_text(text, encoding="utf-8")
        info = self.site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[vlmzoo.plugins]\n{plugin} = {module}\n", encoding="utf-8")
        return info

    def environment(self, **variables: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VLMZOO_")}
        # Without plugins of its own a test's search path is that of all others, and they share one scan.
        path = [str(self.site)] if any(self.site.iterdir()) else []
        own = {
            "PYTHONPATH": os.pathsep.join(filter(None, [*path, kept.get("PYTHONPATH", "")])),
            "PYTHONSAFEPATH": "1",
            "VLMZOO_CACHE": str(self.cache),
            "COLUMNS": "80",
        }
        return kept | own | variables

    def __call__(self, *arguments: str, code: str = MAIN, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            cwd=self.folder,
        )


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def vlmzoo(tmp_path: Path, shared_cache: Path) -> CommandLine:
    return CommandLine(tmp_path, shared_cache)


@pytest.fixture
def manifest():
    """The text of a manifest with one component, described by these arguments of `ComponentSpec`."""

    def manifest(name: str, **more: object) -> str:
        fields = {"kind": "connector", "name": name, "factory": "json:loads", "summary": "A part."} | more
        arguments = ", ".join(f"{key}={value!r}" for key, value in fields.items())
        return (
            "from vlmzoo_registry import ComponentSpec, hookimpl\n\n"
            f"@hookimpl\ndef vlmzoo_components():\n    return [ComponentSpec({arguments})]\n"
        )

    return manifest
