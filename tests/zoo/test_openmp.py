"""The bounds of spinning stand in the environment when torch is imported, and never in place of what somebody has set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch  # noqa: F401 - its runtime is looked for

from vlmzoo.comparison import compare as comparing
from vlmzoo.openmp import SPIN_BOUNDS, WAIT_POLICY, spin_bounds

NAMES = (*SPIN_BOUNDS, WAIT_POLICY)
# Ends the process, with what it found, where torch is looked for: before its runtime is loaded.
WATCH = f"""
import json, os, sys

def tell():
    print(json.dumps({{name: os.environ[name] for name in {NAMES!r} if name in os.environ}}), flush=True)
    os._exit(0)

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            tell()

sys.meta_path.insert(0, Watch())
"""


def environment(**given: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name not in NAMES}, **given}


def python(code: str, *arguments: str, **given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], env=environment(**given), capture_output=True, text=True)


def test_what_an_environment_lacks() -> None:
    assert spin_bounds({}) == {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
    assert spin_bounds({"GOMP_SPINCOUNT": "infinity"}) == {"KMP_BLOCKTIME": "1"}
    assert spin_bounds({"KMP_BLOCKTIME": "0"}) == {"GOMP_SPINCOUNT": "10000"}
    assert spin_bounds({"OMP_WAIT_POLICY": "active"}) == {}
    assert spin_bounds(SPIN_BOUNDS) == {}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SPIN_BOUNDS),
        ({"GOMP_SPINCOUNT": "77"}, {**SPIN_BOUNDS, "GOMP_SPINCOUNT": "77"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_the_command_line_sets_them_before_torch_is_imported(given: dict[str, str], expected: dict[str, str]) -> None:
    done = python(f"{WATCH}\nfrom vlmzoo.cli import main\nmain()", "train", "there-is-none.yaml", **given)
    assert json.loads(done.stdout) == expected, done.stderr


def test_torch_s_runtime_reads_them() -> None:
    """libgomp tells what it goes by."""
    if "gomp" not in Path("/proc/self/maps").read_text():
        pytest.skip("torch does not bring libgomp here")
    code = "import os\nfrom vlmzoo.openmp import spin_bounds\nos.environ.update(spin_bounds(os.environ))\nimport torch"
    done = python(code, OMP_DISPLAY_ENV="verbose")
    assert "GOMP_SPINCOUNT = '10000'" in done.stderr


@pytest.mark.parametrize(("given", "expected"), [({}, SPIN_BOUNDS), ({"KMP_BLOCKTIME": "5"}, {"KMP_BLOCKTIME": "5"})])
def test_the_process_of_a_cell_has_them_also_from_python(
    given: dict[str, str], expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def begin(command: list[str], *, env: dict[str, str], **options: object) -> None:
        raise Begun({name: env[name] for name in NAMES if name in env} | {"PATH": env["PATH"]})

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    monkeypatch.setattr(comparing.subprocess, "Popen", begin)
    with pytest.raises(Begun) as begun, (tmp_path / "lock").open("w") as lock:
        comparing._run(tmp_path / "cell", {}, None, lock, None)
    assert begun.value.args == ({**SPIN_BOUNDS, **expected, "PATH": os.environ["PATH"]},)
    assert dict(os.environ) == before


def test_python_s_environment_is_left_alone() -> None:
    done = python(f"{WATCH}\nimport vlmzoo\nvlmzoo.build")
    assert json.loads(done.stdout) == {}, done.stderr
