"""Makes installed distributions out of text: a folder on `sys.path` with packages and `*.dist-info` beside them."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest


class Site:
    """A folder that Python takes for site-packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, text: str) -> Path:
        """A file of this folder."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    def metadata(self, distribution: str, version: str, entry_points: str) -> Path:
        """The metadata of an installed distribution; `entry_points` is the text of `entry_points.txt`."""
        info = f"{distribution.replace('-', '_')}-{version}.dist-info"
        self.write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        return self.write(f"{info}/entry_points.txt", entry_points)

    def add(self, distribution: str, plugins: Mapping[str, str], version: str = "1.0") -> None:
        """Install a distribution: entry-point name -> the text of its module, which is called `fake_<name>`."""
        lines = ["[vlmzoo.plugins]"]
        for name, text in plugins.items():
            module = f"fake_{distribution.replace('-', '_')}_{name}"
            self.write(f"{module}.py", text)
            lines.append(f"{name} = {module}")
        self.metadata(distribution, version, "\n".join(lines) + "\n")


def manifest(*specs: str, before: str = "") -> str:
    """The text of a manifest that returns these specs, each given as the arguments of `ComponentSpec`."""
    items = ", ".join(f"ComponentSpec({spec})" for spec in specs)
    return (
        f"from vlmzoo_registry import ComponentSpec, hookimpl\n{textwrap.dedent(before)}\n"
        f"@hookimpl\ndef vlmzoo_components():\n    return [{items}]\n"
    )


def spec(name: str, kind: str = "connector", **more: object) -> str:
    """The arguments of a `ComponentSpec`, as text."""
    fields = {"kind": kind, "name": name, "factory": "json:loads", "summary": "A part."} | more
    return ", ".join(f"{key}={value!r}" for key, value in fields.items())


@pytest.fixture
def make_manifest():
    return manifest


@pytest.fixture
def make_spec():
    return spec


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """An empty site folder on `sys.path`, and a cache folder of the test's own."""
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "cache"))
    for name in ("VLMZOO_BLOCK", "VLMZOO_STRICT", "VLMZOO_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    made = Site(tmp_path / "site")
    monkeypatch.syspath_prepend(str(made.folder))
    return made


@pytest.fixture(scope="module")
def module_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """As `site`, for all tests of a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("VLMZOO_BLOCK", "VLMZOO_STRICT", "VLMZOO_PLUGINS"):
            patch.delenv(name, raising=False)
        made = Site(tmp_path_factory.mktemp("site"))
        patch.syspath_prepend(str(made.folder))
        yield made
