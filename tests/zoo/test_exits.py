"""A part that calls `sys.exit(0)` ends no run as if it had succeeded."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import pytest
from comparison_toys import write_toys

import vlmzoo
from vlmzoo.comparison.compare import COMPARISON
from vlmzoo.exits import AskedToExit, refuses_exit
from vlmzoo.training.interruption import Interruption
from vlmzoo_registry import Catalogue, PluginError

PARTS = Path(__file__).parent / "leaving_parts.py"
MAIN = "from vlmzoo.cli import main; main()"
LEAVING = "model.connector=leaving_parts/leaving"

GRID = """
base: recipe.yaml
axes:
  connector:
    mlp: []
    leaving: [model.connector=leaving_parts/leaving]
    gone: [model.connector=leaving_parts/gone]
seeds: [0]
budget: {supervised_tokens: 100}
evaluate:
  data: [{name: captions, path: rows.jsonl, images: .}]
  metrics: [exact]
  max_new_tokens: 4
"""


def test_in_python(tmp_path: Path) -> None:
    write_toys(tmp_path)
    with pytest.raises(PluginError) as refused:
        vlmzoo.train(
            tmp_path / "recipe.yaml", output=tmp_path / "run", overrides=[LEAVING], catalogue=Catalogue.discover(extra=[PARTS])
        )
    line = PARTS.read_text().splitlines().index("            sys.exit(0)") + 1
    assert str(refused.value) == (
        f"`sys.exit(0)` was called in {PARTS}:{line} (`forward`), in the middle of `train`: what runs in it must raise an "
        "exception that says what is wrong"
    )
    assert not (tmp_path / "run" / "align" / "checkpoint").exists()


@pytest.mark.slow
def test_on_the_command_line(tmp_path: Path) -> None:
    write_toys(tmp_path)
    command = [sys.executable, "-c", MAIN, "--plugin", str(PARTS), "train", "recipe.yaml", "--output", "run", LEAVING]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 4
    assert "error: `sys.exit(0)` was called in" in done.stderr


@pytest.mark.slow
def test_a_cell_that_leaves_no_result_is_a_failed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMZOO_PLUGINS", str(PARTS))
    comparison = vlmzoo.compare(write_toys(tmp_path, grid=GRID), output=tmp_path / "cells")
    assert [cell.combination for cell in comparison.cells] == ["mlp"]
    messages = {failure.combination: (failure.message, failure.exit_code) for failure in comparison.failures}
    assert messages["leaving"][0].startswith("`sys.exit(0)` was called in")
    assert messages["leaving"][1] == 4
    assert messages["gone"][0].startswith("its process ended with code 0 and left no result;")
    assert json.loads((tmp_path / "cells" / COMPARISON).read_text())


def test_an_exit_that_a_handler_of_the_caller_asks_for_goes_through() -> None:
    """A run that is interrupted saves, and then the signal has the effect that it would have had."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(75)

    @refuses_exit
    def run() -> None:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            interruption.leave(interruption.number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(AskedToExit) as left:
            run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 75


class Leaves(os.PathLike[str]):
    """A path that ends the process where it is read."""

    def __fspath__(self) -> str:
        sys.exit(0)


@pytest.mark.parametrize(
    "call",
    [
        lambda leaves: vlmzoo.build(leaves),
        lambda leaves: vlmzoo.load(leaves),
        lambda leaves: vlmzoo.plan(leaves),
        lambda leaves: vlmzoo.train(leaves, output="nowhere"),
        lambda leaves: vlmzoo.compare(leaves, output="nowhere"),
    ],
    ids=["build", "load", "plan", "train", "compare"],
)
def test_every_public_function_that_runs_parts_refuses_exits(call: Callable[[Leaves], object]) -> None:
    with pytest.raises(PluginError, match=r"`sys\.exit\(0\)` was called in .*`__fspath__`"):
        call(Leaves())


class Exits:
    """A model that ends the process when it is looked at."""

    def __getattr__(self, name: str) -> NoReturn:
        sys.exit(0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: vlmzoo.from_transformers(Exits()),
        lambda: vlmzoo.to_transformers(Exits()),
        lambda: vlmzoo.remix(Exits(), connector="connectors/mlp"),
    ],
    ids=["from_transformers", "to_transformers", "remix"],
)
def test_exchanging_models_refuses_exits(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmzoo.exchange.take_apart.exchange_of", lambda model: model.exchange)
    with pytest.raises(PluginError, match=r"`sys\.exit\(0\)` was called in .*`__getattr__`"):
        call()
