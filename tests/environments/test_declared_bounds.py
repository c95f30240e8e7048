"""The oldest and the newest environment are computed from `pyproject.toml` alone."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from declared_bounds import PYPROJECT, at_lower_bound, newest, oldest, without_upper_bound
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]

SMALL = {
    "name": "vlmzoo",
    "dependencies": ["a>=1.2,<2", "b-b>=3", "c[more]>=4,<=5,!=4.1; python_version >= '3.11'"],
    "optional-dependencies": {
        "arrow": ["d>=5"],
        "quickstart": ["e==6.0"],
        "test": ["vlmzoo[arrow]", "F_f>=7,<9"],
        "docs": ["g>=8"],
    },
}


def test_the_oldest_is_every_lower_bound_with_the_tools_of_the_lock() -> None:
    assert oldest(SMALL, {"f-f": "8.1"}) == [
        "a==1.2",
        "b-b==3",
        'c[more]==4; python_version >= "3.11"',
        "d==5",
        "e==6.0",
        "F_f==8.1",
    ]


def test_the_newest_has_no_upper_bound() -> None:
    assert newest(SMALL) == [
        "a>=1.2",
        "b-b>=3",
        'c[more]!=4.1,>=4; python_version >= "3.11"',
        "d>=5",
        "e==6.0",
        "F_f>=7",
    ]


@pytest.mark.parametrize("text", ["a", "a<2", "a>=1,>=2"])
def test_a_requirement_without_one_lower_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"has \d lower bounds \(`>=` or `==`\), and must have one"):
        at_lower_bound(Requirement(text))


def test_every_requirement_of_the_project_has_its_bounds() -> None:
    libraries = ("torch", "transformers", "timm", "open-clip-torch", "peft", "accelerate", "pydantic")
    requirements = {Requirement(text).name: Requirement(text) for text in PROJECT["dependencies"]}
    for name in libraries:
        lower = at_lower_bound(requirements[name]).partition("==")[2]
        assert str(requirements[name]) != without_upper_bound(requirements[name]), f"{name} has no upper bound"
        assert not requirements[name].specifier.contains(f"{Version(lower).major + 1}.0"), name


@pytest.mark.parametrize("environment", ["oldest", "newest"])
def test_the_command_prints_requirements(environment: str) -> None:
    script = Path(__file__).with_name("declared_bounds.py")
    done = subprocess.run([sys.executable, str(script), environment], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    named = {Requirement(line).name for line in lines}
    assert {Requirement(text).name for text in PROJECT["dependencies"]} <= named
    assert {"pyarrow", "gguf", "pytest", "hypothesis"} <= named and "mkdocs-material" not in named
    if environment == "oldest":
        assert all("==" in line for line in lines)
    else:
        assert not [line for line in lines if re.search(r"[^!]<", line)]
