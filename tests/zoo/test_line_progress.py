"""How far something is, where nobody can see a bar: lines that come in time, say all of it, and hold no control codes."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resumable import recipe, write_rows
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from vlmzoo import line_progress
from vlmzoo.comparison.progress import GridProgress
from vlmzoo.line_progress import LineProgress
from vlmzoo.passing_bar import passing_bar
from vlmzoo.training.progress import StepProgress
from vlmzoo.training.train import train


class Clock:
    """Seconds that are set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every bar; nothing looks at it but the test."""
    monkeypatch.setattr(line_progress, "_LOOK", 3600.0)
    found = Clock()
    init = LineProgress.__init__
    monkeypatch.setattr(
        LineProgress, "__init__", lambda self, *columns, **options: init(self, *columns, **options, clock=found)
    )
    return found


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[LineProgress]:
    """The bars that are made, in order."""
    found: list[LineProgress] = []
    start = LineProgress.start

    def noted(self: LineProgress) -> None:
        found.append(self)
        start(self)

    monkeypatch.setattr(LineProgress, "start", noted)
    return found


def pipe() -> Console:
    """A console that writes where no terminal is, narrower than the lines."""
    return Console(file=io.StringIO(), width=30)


def said(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    assert text == "" or text.endswith("\n")
    return text.splitlines()


def test_steps_of_a_stage_in_a_pipe(clock: Clock, bars: list[LineProgress]) -> None:
    console = pipe()
    with StepProgress(console, "align", 100, done=10) as progress:
        (bar,) = bars
        for loss in (4.0, 3.0):
            clock.now += 10
            progress.advance(loss, 10.0)
            bar.look()
        assert said(console) == []
        clock.now += 9.9
        bar.look()
        assert said(console) == []
        clock.now += 0.1
        bar.look()
        first = "align: step 12/100 loss 3.900 10.0 s/step 0:00:30 left 0:14:40"
        assert said(console) == [first]
        clock.now += 29
        bar.look()
        assert said(console) == [first]
        clock.now += 1
        bar.look()  # also where no step was done meanwhile: it is alive
        assert said(console) == [first, "align: step 12/100 loss 3.900 10.0 s/step 0:01:00 left 0:14:40"]
    assert said(console)[2:] == ["align: step 12/100 loss 3.900 10.0 s/step 0:01:00 left 0:14:40"]


def test_the_time_left_is_known_where_a_step_takes_minutes(clock: Clock, bars: list[LineProgress]) -> None:
    """rich estimates it from the last 30 seconds, in which no two steps fall."""
    console = pipe()
    with StepProgress(console, "align", 10) as progress:
        for _ in range(3):
            clock.now += 90
            progress.advance(1.0, 90.0)
            bars[0].look()
    assert said(console) == [
        "align: step 1/10 loss 1.000 90.0 s/step 0:01:30 left -:--:--",
        "align: step 2/10 loss 1.000 90.0 s/step 0:03:00 left 0:12:00",
        *2 * ["align: step 3/10 loss 1.000 90.0 s/step 0:04:30 left 0:10:30"],
    ]


def test_what_passes_leaves_no_last_line(clock: Clock) -> None:
    console = pipe()
    with passing_bar(console, "rows") as bar:
        done, other = (bar.add_task(name, total=4) for name in ("align: checking a", "align: checking b"))
        bar.advance(done, 4)
        bar.look()
        assert said(console) == []
        clock.now += 30
        bar.look()
        bar.advance(other, 3)
    assert said(console) == ["align: checking b 0/4 rows 0:00:30 left -:--:--"]


def test_the_cell_at_work(clock: Clock, bars: list[LineProgress]) -> None:
    console = pipe()
    with GridProgress(console, 2) as progress:
        progress.begin("mlp-seed0")
        clock.now += 31
        bars[0].look()
        progress.failed("mlp-seed0", "it has burst")
    assert said(console) == ["cells 0/2 mlp-seed0 begins 0:00:31", "[1/2] failed  mlp-seed0  it has burst"]


def test_lines_come_though_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_progress, "_LOOK", 0.001)
    written = threading.Event()

    class File(io.StringIO):
        def write(self, text: str) -> int:
            written.set()
            return super().write(text)

    clock = Clock()
    console = Console(file=File())
    with LineProgress(TextColumn("{task.description}"), console=console, clock=clock) as bar:
        bar.add_task("waiting")
        clock.now += 30
        assert written.wait(60)
        (reporter,) = [thread for thread in threading.enumerate() if thread.name == "progress"]
        assert reporter.daemon, "a process that ends does not wait for it"
    assert not reporter.is_alive()
    assert said(console) == ["waiting", "waiting"]


def test_a_terminal_has_its_bar_and_no_console_nothing() -> None:
    columns: Callable[[], Any] = lambda: (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())  # noqa: E731
    terminal = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=80)
    for console in (terminal, None):
        with LineProgress(*columns(), console=console) as bar:
            bar.advance(bar.add_task("align", total=2))
            assert "progress" not in [thread.name for thread in threading.enumerate()]
            bar.look()
    assert isinstance(terminal.file, io.StringIO)
    assert "━" in terminal.file.getvalue()


def test_no_phase_of_a_stage_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if each row, image and step took 30 seconds."""
    monkeypatch.setenv("VLMZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(line_progress, "SECONDS", 0.0)
    monkeypatch.setattr(line_progress, "_LOOK", 3600.0)
    for name in ("advance", "update"):
        original = getattr(LineProgress, name)

        def looking(self: LineProgress, *given: Any, original: Any = original, **options: Any) -> None:
            original(self, *given, **options)
            self.look()

        monkeypatch.setattr(LineProgress, name, looking)
    plan = recipe(write_rows(tmp_path), on_bad_row="skip", cache_features=True, batching={"group_by": "length"})
    console = pipe()
    train(plan, output=tmp_path / "run", console=console)
    assert capsys.readouterr().out == "", "where no console was given"
    lines = said(console)
    for phase in ("checking tasks/captions", "measuring", "looking at images", "encoding", "step"):
        assert [line for line in lines if line.startswith(f"align: {phase} ")], phase
