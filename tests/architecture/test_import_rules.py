"""The zoo, the registry and the plugins know of each other only what the design allows; import-linter holds the rule."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("zoo", "registry", "plugins")


def lint(folder):
    """Run import-linter over the sources in this folder."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"]
    path = os.pathsep.join(str(folder / source) for source in SOURCES)
    return subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    for source in SOURCES:
        shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_sources_keep_the_rules():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 3 kept, 0 broken." in done.stdout


@pytest.mark.parametrize(
    ("file", "text", "contract"),
    [
        ("plugins/vlmzoo_toy/planted.py", "import vlmzoo\n", "A plugin never imports the zoo"),
        ("plugins/vlmzoo_toy/planted.py", "def f():\n    from vlmzoo.cli import main\n", "A plugin never imports the zoo"),
        ("plugins/vlmzoo_toy/planted.py", "from vlmzoo_connectors import plugin\n", "Plugins do not know each other"),
        ("zoo/vlmzoo/planted.py", "import vlmzoo_timm.plugin\n", "The zoo never imports a plugin"),
        ("registry/vlmzoo_registry/planted.py", "import vlmzoo.cli\n", "A plugin never imports the zoo"),
        ("registry/vlmzoo_registry/planted.py", "import vlmzoo_toy\n", "The zoo never imports a plugin"),
    ],
)
def test_a_planted_import_is_refused(copy, file, text, contract):
    planted = copy / file
    planted.write_text(text, encoding="utf-8")
    try:
        done = lint(copy)
    finally:
        planted.unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout
    assert "planted" in done.stdout


def test_the_copy_itself_keeps_the_rules(copy):
    assert lint(copy).returncode == 0
