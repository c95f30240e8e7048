"""The site builds strictly, says of the program what the program says, and lists everything that is public."""

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

import vlmzoo
import vlmzoo_registry
from vlmzoo.cli.commands import COMMANDS
from vlmzoo.config import Recipe
from vlmzoo.config.grid import GridConfig
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo_registry import Catalogue, hooks, testing

ROOT = Path(__file__).parents[2]
COLUMNS = "96"

pytestmark = pytest.mark.slow


def build(root: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict`; with `--quiet` it would not count warnings."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        str(root / "mkdocs.yml"),
        "-d",
        str(target),
    ]
    return subprocess.run(command, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def page(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def without_anchor(text: str, names: Iterable[str]) -> list[str]:
    """Which names have no entry on a page."""
    anchors = set(re.findall(r'\bid="([^"]+)"', text))
    return [name for name in names if name not in anchors]


def test_every_page_of_the_navigation_is_there(site: Path) -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        children = entry.values() if isinstance(entry, dict) else entry
        return [page for child in children for page in pages(child)]

    class Loader(yaml.SafeLoader):
        """Reads the configuration of the site, whose tags name Python objects, without making any."""

    Loader.add_multi_constructor("", lambda loader, suffix, node: None)
    listed = pages(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"])
    assert len(listed) >= 12
    for name in listed:
        text = page(site, name.removesuffix(".md") + ".html")
        assert "<h1" in text, name


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_the_command_line_is_what_help_prints(site: Path, command: str | None) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VLMZOO_", "GITHUB_", "FORCE_"))}
    done = subprocess.run(
        [sys.executable, "-c", "from vlmzoo.cli import main; main()", *filter(None, [command]), "--help"],
        env=kept | {"COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    # Run so, the program is called `-c`.
    printed = "\n".join(line.rstrip() for line in done.stdout.replace("Usage: -c", "Usage: vlmzoo").splitlines()).strip("\n")
    code = [
        html.unescape(re.sub("<[^>]+>", "", block))
        for block in re.findall(r"<code>(.*?)</code>", page(site, "reference/command-line.html"), re.S)
    ]
    assert printed in [block.strip("\n") for block in code]


def test_every_public_name_has_an_entry(site: Path) -> None:
    python, contracts = page(site, "reference/python.html"), page(site, "reference/contracts.html")
    assert not without_anchor(python, [f"vlmzoo.{name}" for name in vlmzoo.__all__])
    assert not without_anchor(contracts, [f"vlmzoo_registry.{name}" for name in vlmzoo_registry.__all__])
    assert not without_anchor(contracts, [f"vlmzoo_registry.testing.{name}" for name in testing.__all__])


def test_every_hook_has_an_entry(site: Path) -> None:
    specified = [name for name, value in vars(hooks).items() if hasattr(value, f"{hooks.PROJECT}_spec")]
    assert specified
    assert not without_anchor(page(site, "reference/contracts.html"), [f"vlmzoo_registry.hooks.{name}" for name in specified])


def test_what_a_part_must_implement_has_an_entry(site: Path) -> None:
    members = [
        f"vlmzoo_registry.{name}.{member}"
        for name in vlmzoo_registry.__all__
        for member in getattr(getattr(vlmzoo_registry, name), "__abstractmethods__", ())
        if member in vars(getattr(vlmzoo_registry, name))  # what it inherits stands where it is declared
    ]
    assert len(members) >= 25
    assert not without_anchor(page(site, "reference/contracts.html"), members)


def test_a_missing_entry_is_noticed(site: Path) -> None:
    text = page(site, "reference/contracts.html").replace('id="vlmzoo_registry.Template"', "")
    assert without_anchor(text, ["vlmzoo_registry.Template", "vlmzoo_registry.Span"]) == ["vlmzoo_registry.Template"]


def test_every_part_and_option_has_an_entry(site: Path) -> None:
    text = page(site, "reference/parts.html")
    own = [component for component in Catalogue.discover(quiet=True).components() if component.distribution == "vlmzoo"]
    assert len(own) >= 18
    assert not without_anchor(text, [f"{part.spec.kind}-{part.full_name.replace('/', '-')}" for part in own])
    sections = re.split(r"<h3 ", text)[1:]
    for part in own:
        (section,) = (s for s in sections if f'id="{part.spec.kind}-{part.full_name.replace("/", "-")}"' in s)
        for option in part.load_config().model_fields:
            assert f"<code>{option}</code>" in section, f"{part}: {option}"


@pytest.mark.parametrize(("name", "outermost"), [("recipe", Recipe), ("grid", GridConfig)])
def test_every_key_of_a_config_has_an_entry(site: Path, name: str, outermost: type[BaseModel]) -> None:
    sections = re.split(r"<h2 ", page(site, f"reference/{name}.html"))[1:]
    classes = classes_of(outermost)
    assert outermost in classes and len(classes) >= 3
    for kind in classes:
        (section,) = (text for text in sections if f'id="{kind.__name__.lower()}"' in text)
        for key in kind.model_fields:
            assert f"<code>{key}</code>" in section, f"{kind.__name__}.{key}"


def test_every_shipped_recipe_has_an_entry(site: Path) -> None:
    source = page(site, "reference/shipped.html")
    text = html.unescape(re.sub("<[^>]+>", "", source))
    assert len(shipped_recipes()) >= 65
    anchors = {name: f"recipe-{name.replace('.', '-')}" for name in shipped_recipes()}
    assert not without_anchor(source, anchors.values())
    assert all(f'<a href="#{anchor}">{name}</a>' in source for name, anchor in anchors.items())
    for file in shipped_recipes().values():
        assert file.read_text(encoding="utf-8").rstrip() in text, file.name


def classes_of(annotation: object) -> set[type[BaseModel]]:
    """The classes of sections that an annotation is made of, and those of their fields."""
    found: set[type[BaseModel]] = set()
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found |= {annotation}
        found |= {kind for field in annotation.model_fields.values() for kind in classes_of(field.annotation)}
    for argument in get_args(annotation):
        found |= classes_of(argument)
    return found


def test_tables_show_no_escapes(site: Path) -> None:
    for path in site.rglob("*.html"):
        code = re.findall(r"<td[^>]*>.*?</td>", path.read_text(encoding="utf-8"), re.S)
        assert not [cell for cell in code if "\\|" in cell], path.name


def test_pages_load_nothing_from_a_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 12
    loaded = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//|<link(?![^>]+canonical)[^>]+href=\"(?:https?:)?//"
    )
    for path in pages:
        assert not loaded.search(path.read_text(encoding="utf-8")), path.name


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for folder in ("zoo", "registry", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    index = tmp_path / "docs/index.md"
    index.write_text(index.read_text() + "\n[nowhere](nowhere.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout + done.stderr
