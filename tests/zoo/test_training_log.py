"""The log of a stage, the picture drawn from it, and the signals that are kept until a step is saved."""

import json
import math
import random
import signal
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vlmzoo.training.history import AUDIT, END, STEP, History, RunLog, read_log
from vlmzoo.training.interruption import Interruption
from vlmzoo.training.plot import loss_plot, smoothed, write_loss_plot
from vlmzoo.training.progress import StepProgress
from vlmzoo_registry import DataError, ResourceError

HEADER = {"stage": "align"}


def write_log(folder: Path, steps: range, *, step: int = 0, end: bool = False) -> None:
    with RunLog(folder, HEADER, step=step) as log:
        for number in steps:
            log.write(STEP, {"step": number, "loss": float(number)})
        if end:
            log.write(AUDIT, {"rows": []})
            log.write(
                END, {"losses": [float(number) for number in range(steps.stop)], "tokens": 1, "images": 2, "seconds": 3.0}
            )


# ---- the log ---------------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_log(tmp_path, range(0, 4, 2))
    log = read_log(tmp_path)
    assert (log.name, log.losses, log.audit, log.end) == ("align", [(0, 0.0), (2, 2.0)], None, None)
    write_log(tmp_path, range(4), end=True)
    log = read_log(tmp_path)
    assert log.losses == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]
    assert log.audit is not None
    assert log.end is not None
    assert log.end["images"] == 2


def test_a_line_that_a_kill_cut_off_is_left_out_and_then_replaced(tmp_path: Path) -> None:
    write_log(tmp_path, range(3))
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text()[:-5])
    assert [record["step"] for record in read_log(tmp_path).steps] == [0, 1]
    write_log(tmp_path, range(2, 4), step=2)
    assert [record["step"] for record in read_log(tmp_path).steps] == [0, 1, 2, 3]


def test_records_past_the_step_are_cut_and_kept_aside(tmp_path: Path) -> None:
    """Also the end of a stage whose checkpoint was not written any more."""
    write_log(tmp_path, range(4), end=True)
    whole = (tmp_path / "log.jsonl").read_text()
    write_log(tmp_path, range(2, 2), step=2)
    log = read_log(tmp_path)
    assert ([record["step"] for record in log.steps], log.audit, log.end) == ([0, 1], None, None)
    assert (tmp_path / "log.1.jsonl").read_text() == whole
    write_log(tmp_path, range(2, 4), step=2)
    assert not (tmp_path / "log.2.jsonl").exists()
    write_log(tmp_path, range(1))
    assert [json.loads(line)["step"] for line in (tmp_path / "log.2.jsonl").read_text().splitlines()[1:]] == [0, 1, 2, 3]


def test_the_header_stays_that_of_the_beginning(tmp_path: Path) -> None:
    write_log(tmp_path, range(2))
    with RunLog(tmp_path, {"stage": "align", "versions": "of today"}, step=1) as log:
        assert log.header == {"kind": "stage", "stage": "align"}
    assert "versions" not in read_log(tmp_path).stage


@pytest.mark.parametrize("content", [None, "", '{"kind": "step", "step": 0}\n', '{"step": 0}\n'])
def test_what_is_no_log(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(DataError) as refused:
        read_log(tmp_path)
    assert str(refused.value) == (
        f"`{tmp_path / 'log.jsonl'}` is not the log of a stage: there is no such file, or its first line is another's"
    )


@pytest.mark.parametrize(("line", "what"), [("{", "not JSON ("), ("3", "not a JSON object: it was edited")])
def test_a_damaged_line_is_named(line: str, what: str, tmp_path: Path) -> None:
    write_log(tmp_path, range(2))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as refused:
        read_log(tmp_path)
    assert f"`{tmp_path / 'log.jsonl'}` has a line that is {what}" in str(refused.value)


# ---- the picture -----------------------------------------------------------------------------------------------------------


def history(losses: list[float], name: str = "align") -> History:
    return History({"stage": name}, (), None, {"losses": losses})


def test_the_line_is_that_of_a_least_squares_fit_around_each_step() -> None:
    """Against numpy's own, step by step."""
    chance = random.Random(0)
    losses = [5 * math.exp(-step / 40) + chance.gauss(0, 0.3) for step in range(200)]
    for step, value in enumerate(smoothed(losses)):
        first, last = max(0, step - 10), min(200, step + 11)
        slope, level = np.polyfit(np.arange(first, last) - step, losses[first:last], 1)
        assert math.isclose(value, level, abs_tol=1e-9), (step, slope)


def test_a_straight_fall_is_followed_without_lag() -> None:
    losses = [10 - 0.01 * step for step in range(1000)]
    assert np.allclose(smoothed(losses), losses, atol=1e-9)
    assert np.allclose(smoothed([3.0] * 100_000), 3.0, atol=1e-9)
    assert smoothed([2.0]) == [2.0]
    assert smoothed([]) == []


@pytest.mark.parametrize("count", [0, 1, 2, 50, 5000])
def test_the_picture_is_svg_that_a_page_can_hold(count: int) -> None:
    text = loss_plot({"align": history([1.0 + 1 / (step + 1) for step in range(count)])})
    assert text.startswith("<svg ")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<!DOCTYPE" not in text
    assert 'href="http' not in text
    assert "<!-- optimizer step -->" in text
    assert "<!-- loss (nats per supervised token) -->" in text
    assert len(text) < 600_000


def test_a_legend_only_where_there_are_several() -> None:
    losses = [3.0, 2.0, 1.0]
    assert "<!-- mlp -->" not in loss_plot({"mlp": history(losses)})
    several = loss_plot({"mlp": history(losses), "linear": history(losses[:2])})
    assert "<!-- mlp -->" in several
    assert "<!-- linear -->" in several


def test_the_same_log_gives_the_same_picture(tmp_path: Path) -> None:
    write_log(tmp_path, range(4), end=True)
    write_loss_plot(tmp_path)
    content = (tmp_path / "loss.svg").read_bytes()
    write_loss_plot(tmp_path)
    assert (tmp_path / "loss.svg").read_bytes() == content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.jsonl", "loss.svg"]


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    write_log(tmp_path, range(4), end=True)
    (tmp_path / "loss.svg").mkdir()
    with pytest.raises(ResourceError) as refused:
        write_loss_plot(tmp_path)
    assert str(refused.value).startswith(f"`{tmp_path / 'loss.svg'}` could not be written (")


# ---- signals ---------------------------------------------------------------------------------------------------------------


class Asked(BaseException):
    """What the handler of whoever trains raises."""


@pytest.fixture
def handled() -> Iterator[Callable[[], object]]:
    def ask(number: int, frame: object) -> None:
        raise Asked(number)

    earlier = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    yield ask
    for number, handler in earlier.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_and_then_has_its_effect(number: int, handled: Callable[[], object]) -> None:
    with pytest.raises(Asked) as stopped, Interruption() as interruption:  # noqa: PT012
        signal.raise_signal(number)
        assert interruption.number == number
        interruption.leave(number)
    assert stopped.value.args == (number,)
    assert signal.getsignal(number) is handled


def test_a_second_signal_has_its_effect_at_once(handled: Callable[[], object]) -> None:
    """Also another one than the first."""
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Asked):
            signal.raise_signal(signal.SIGINT)
        assert interruption.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) is handled


def test_without_a_signal_the_handlers_are_as_before(handled: Callable[[], object]) -> None:
    with Interruption() as interruption:
        assert signal.getsignal(signal.SIGINT) is not handled
    assert interruption.number == 0
    assert signal.getsignal(signal.SIGINT) is handled
    assert signal.getsignal(signal.SIGTERM) is handled


def test_an_ignored_signal_stays_ignored(handled: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.number == 0


def test_outside_of_the_main_thread_nothing_is_touched(handled: Callable[[], object]) -> None:
    found = []

    def enter() -> None:
        with Interruption() as interruption:
            found.append((signal.getsignal(signal.SIGINT), interruption.number))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(handled, 0)]


def test_a_handler_that_comes_back_does_not_let_the_run_go_on() -> None:
    earlier = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), Interruption() as interruption:
            interruption.leave(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_errors_get_no_note_of_an_interruption() -> None:
    with pytest.raises(ValueError) as failed, StepProgress(None, "align", 3):
        raise ValueError
    assert not hasattr(failed.value, "__notes__")
