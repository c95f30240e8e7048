"""A new folder in `plugins/` cannot be forgotten: it stands in the wheel, in the entry points and in every import rule."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONTRACTS = {contract["name"]: contract for contract in PROJECT["tool"]["importlinter"]["contracts"]}


@pytest.fixture
def folders():
    found = {path.name for path in (ROOT / "plugins").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert len(found) >= 6
    return found


@pytest.mark.parametrize(
    ("contract", "field"),
    [
        ("The zoo never imports a plugin", "forbidden_modules"),
        ("A plugin never imports the zoo", "source_modules"),
        ("Plugins do not know each other", "modules"),
    ],
)
def test_every_folder_is_in_every_contract(folders, contract, field):
    assert set(CONTRACTS[contract][field]) - {"vlmzoo_registry"} == folders


def test_no_contract_is_left_out_of_these_tests():
    assert len(CONTRACTS) == 3


def test_every_folder_is_a_root_of_the_linter(folders):
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == folders | {"vlmzoo", "vlmzoo_registry"}


def test_every_folder_is_in_the_wheel(folders):
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages == {f"plugins/{name}" for name in folders} | {"zoo/vlmzoo", "registry/vlmzoo_registry"}


def test_every_folder_has_one_entry_point(folders):
    points = PROJECT["project"]["entry-points"]["vlmzoo.plugins"]
    assert sorted(points.values()) == sorted(f"{name}.plugin" for name in folders)


def test_only_packages_lie_in_the_source_roots():
    for root in ("zoo", "registry", "plugins"):
        for path in (ROOT / root).iterdir():
            if path.name != "__pycache__":
                assert path.is_dir(), f"{path} is no package"
                assert (path / "__init__.py").is_file(), f"{path} is no package"
                assert (path / "py.typed").is_file(), f"{path} does not say that it is typed"
