"""`compare`: the cells of a grid, one after the other, each in a process of its own; taken up where it was stopped.

A cell that is finished is read, one that was interrupted goes on, one that failed is tried again; none takes another down.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from vlmzoo.comparison.cell import FAILURE, RESULT, RUN, TASK
from vlmzoo.comparison.cells import Cell, cells_of, combinations_of
from vlmzoo.comparison.progress import GridProgress
from vlmzoo.comparison.report import write_report
from vlmzoo.comparison.result import CellFailure, CellResult, Comparison, aggregate, cell_result
from vlmzoo.config import load_grid
from vlmzoo.durable import replace_json
from vlmzoo.evaluation import evenly
from vlmzoo.exits import refuses_exit
from vlmzoo.openmp import spin_bounds
from vlmzoo.shortened import shortened
from vlmzoo.training.run_folder import RECIPE, differences, trained_otherwise
from vlmzoo_registry import ResourceError

COMPARISON, REPORT = "comparison.json", "report.html"
PATIENCE = 120.0
"""Seconds that a cell gets to save when the comparison is interrupted."""
SHOWN = 12
"""Questions in the report, evenly taken from all."""
LOCK_PATIENCE = 5.0
"""Seconds that a comparison waits for the cell of another that was just killed."""


def plan_comparison(
    grid: Mapping[str, Any] | str | PathLike[str], *, overrides: Sequence[str] = (), console: Console | None = None
) -> tuple[Cell, ...]:
    """The cells of a grid, planned and counted, without training any. Raises as `compare` does before the first cell."""
    config, root = load_grid(grid, overrides)
    say = _sayer(console)
    return cells_of(config, combinations_of(config, root, say), say)


@refuses_exit
def compare(
    grid: Mapping[str, Any] | str | PathLike[str],
    *,
    output: str | PathLike[str],
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> Comparison:
    """Train every cell of a grid under the same budget, ask each the same questions, seeing and blind, and compare them.

    Leaves `comparison.json` and `report.html` in `output`, and each cell in `output/cells/<name>-seed<seed>`. The budget sets
    the length of a recipe's last stage; the stages before it are trained as the recipe says.

    Args:
        grid: a mapping, or the path of a YAML file.
        output: the folder of the comparison; the same call goes on with what is there.
        overrides: dotted changes of the grid, `budget.steps=10`.
        console: where progress is shown; default: nowhere.

    A cell that fails is among `failures` of the result, and raises nothing.

    Raises `ConfigError`, `DataError` with every reason against every cell before the first one trains, `ResourceError` where
    the folder holds cells of the same name that were trained otherwise, or another comparison is at work in it.
    """
    config, root = load_grid(grid, overrides)
    say = _sayer(console)
    cells = cells_of(config, combinations_of(config, root, say), say)
    folder = Path(output)
    with _held(folder) as lock:
        tasks = {cell.name: cell.task(config) for cell in cells}
        _refuse_changed(folder, cells)
        results: dict[str, CellResult] = {}
        failures: dict[str, CellFailure] = {}
        versions: dict[str, str] = {}
        answers: dict[str, list[dict[str, Any]]] = {}  # by combination, those of its first seed
        with GridProgress(console, len(cells)) as progress:
            for cell in cells:
                values = cell.combination.values
                place = _folder(folder, cell)
                told = _finished(place, tasks[cell.name])
                if told is None:
                    progress.begin(cell.name)
                    failed = _run(place, tasks[cell.name], cell, lock, progress)
                    if failed is not None:
                        failures[cell.name] = failed
                        progress.failed(cell.name, failed.message)
                        continue
                    told = json.loads((place / RESULT).read_text(encoding="utf-8"))
                    progress.done(cell.name, told, kept=False)
                else:
                    progress.done(cell.name, told, kept=True)
                versions |= told["versions"]
                answers.setdefault(cell.combination.name, told["seeing"]["answers"])
                results[cell.name] = cell_result(cell.combination.name, cell.seed, values, told)
        metrics = tuple(choice.component.full_name for choice in config.evaluate.metrics)
        combinations = {cell.combination.name: cell.combination for cell in cells}
        comparison = Comparison(
            grid=config.dump(),
            versions=versions,
            metrics=metrics,
            combinations=tuple(
                aggregate(name, combination.values, [r for r in results.values() if r.combination == name], metrics)
                for name, combination in combinations.items()
            ),
            cells=tuple(results.values()),
            failures=tuple(failures.values()),
        )
        replace_json(folder / COMPARISON, comparison.to_dict())
        write_report(comparison, folder / REPORT, samples=_said(answers))
    return comparison


def _run(place: Path, task: dict[str, Any], cell: Cell, lock: IO[str], progress: GridProgress) -> CellFailure | None:
    """One cell in a process of its own; None where it left its result."""
    place.mkdir(parents=True, exist_ok=True)
    for name in (RESULT, FAILURE):
        (place / name).unlink(missing_ok=True)
    replace_json(place / TASK, task)
    command = [sys.executable, "-P", "-m", "vlmzoo.comparison.cell", str(place), str(os.getpid())]
    # A group of its own: an interruption of the terminal reaches this process alone, which then asks the cell to save, once.
    # The cell holds the lock too: where this process is killed and the system lets the cell live on, no other may start.
    with (place / "output.txt").open("w", encoding="utf-8") as out:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **spin_bounds(os.environ)},  # also where `compare` is called from Python
            process_group=0,
            pass_fds=[lock.fileno()],
        )
        try:
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=0.5)
                progress.look(place / RUN)
        except BaseException as error:
            error.add_note(f"cell `{cell.name}` was at work; the same command goes on from what is saved")
            child.terminate()
            raise
        finally:
            try:
                child.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    if child.returncode == 0 and (place / RESULT).exists():
        return None
    message, code = _why(place, child.returncode)
    return CellFailure(cell.combination.name, cell.seed, cell.combination.values, message, code)


def _why(place: Path, code: int) -> tuple[str, int]:
    """What a cell says of its failure, or what its end says."""
    if (place / FAILURE).exists():
        told = json.loads((place / FAILURE).read_text(encoding="utf-8"))
        reasons = "; ".join(told["reasons"])
        return f"{told['message']}{': ' if reasons else ''}{reasons}", int(told["exit_code"])
    if code == 0:
        return f"its process ended with code 0 and left no result; `{place / 'output.txt'}` has what it said", 1
    if code == -signal.SIGKILL:
        return (
            "its process was killed. Where nobody did that, it is how the system ends what needs more memory than there is: "
            "lower `micro_batch`, which makes the same update"
        ), 6
    if code < 0:
        return f"its process ended by {signal.Signals(-code).name}; `{place / 'output.txt'}` has what it said", 1
    return f"its process ended with code {code}; `{place / 'output.txt'}` has what it said", 1


def _refuse_changed(folder: Path, cells: Sequence[Cell]) -> None:
    """Refuse to mix runs: a cell that was begun must be trained as it was begun. Other questions may be asked at any time."""
    reasons = []
    for cell in cells:
        place = _folder(folder, cell)
        begun = place / TASK
        if not begun.exists() or not (place / RUN / RECIPE).exists():
            continue
        before = json.loads(begun.read_text(encoding="utf-8"))
        changed = [
            *trained_otherwise(before["recipe"], cell.recipe.dump(), "recipe"),
            *differences(before["seconds"], cell.seconds, "seconds"),
        ]
        if changed:
            reasons.append(f"{cell.name}: {'; '.join(shortened(changed, 5))}")
    if reasons:
        raise ResourceError(
            f"`{folder}` holds cells that were trained otherwise: choose another `--output`, change the grid or its recipe "
            "back, or remove the folders of these cells",
            reasons,
        )


def _finished(place: Path, task: dict[str, Any]) -> dict[str, Any] | None:
    """The result of a cell, if it has one that answers this task."""
    if not (place / RESULT).exists():
        return None
    told: dict[str, Any] = json.loads((place / RESULT).read_text(encoding="utf-8"))
    asked = ({key: value for key, value in each.items() if key != "recipe"} for each in (told["task"], task))
    return None if trained_otherwise(told["task"]["recipe"], task["recipe"]) or next(asked) != next(asked) else told


def _folder(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / cell.name


def _said(answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Some questions with what each combination said, for the report; those that were asked others are left out."""
    asked = next(iter(answers.values()), ())
    alike = {name: given for name, given in answers.items() if len(given) == len(asked)}
    return [
        {
            "question": asked[index]["question"],
            "truth": asked[index]["truth"],
            "said": {name: given[index]["said"] for name, given in alike.items()},
        }
        for index in evenly(len(asked), SHOWN)
    ]


@contextmanager
def _held(folder: Path) -> Iterator[IO[str]]:
    """The folder for this process and its cells alone; waits a little for cells that are being killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise ResourceError(f"`{folder}` cannot be written ({error}): choose another `--output`") from error
    with lock:
        until = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    raise ResourceError(f"another comparison is at work in `{folder}`: wait for it, or end it") from None
                time.sleep(0.1)
        yield lock


def _sayer(console: Console | None) -> Any:
    return (lambda line: None) if console is None else (lambda line: console.print(line, soft_wrap=True))
