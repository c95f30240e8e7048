"""Processes that read ahead: the same batches for any number of them, their errors as without them, and none left behind."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from resumable import recipe, refused, stopped, write_rows
from small_models import picture, section

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.data import BatchStream, Collator, StreamState
from vlmzoo.data.stream import Permutation
from vlmzoo.training import loader as loading
from vlmzoo.training.history import read_log
from vlmzoo.training.loader import StepBatch, StepLoader
from vlmzoo.training.micro_batch import MicroBatch
from vlmzoo.training.samples import Samples, make_collator
from vlmzoo.training.train import train
from vlmzoo_registry import BadRowsError, DataError, ResourceError
from vlmzoo_registry.tasks import Dataset, Sample, Turn

ROWS = 11
WIDE = 20_000  # characters: more than a file that is open keeps in memory


class Rows(Dataset):
    """Rows of different lengths; two of three have a picture. Reads nothing, and cannot be pickled."""

    def __init__(self) -> None:
        self.picture = lambda index: lambda: picture(index)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Sample:
        images = (self.picture(index),) if index % 3 else ()
        turns = (Turn("user", "<image>" * len(images)), Turn("assistant", "word " * (index + 1)))
        return Sample(str(index), turns, images, source=f"rows:{index}")


@pytest.fixture(scope="module")
def collate() -> Collator:
    plan = load_recipe(
        {
            "model": section(),
            "stages": [
                {
                    "name": "s",
                    "objective": "caption",
                    "data": [{"name": "captions", "path": "none.jsonl", "images": "."}],
                    "train": {"connector": {"lr": 1e-3}},
                    "batch_size": 4,
                    "steps": 1,
                }
            ],
        }
    )
    return make_collator(vlmzoo.build(plan.model), plan.stages[0])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def stream(batch_size: int = 4, state: StreamState | None = None) -> BatchStream:
    return BatchStream(Permutation(ROWS, seed=1), batch_size, state=state)


def loader(collate: Collator, rows: Dataset | None = None, *, state: StreamState | None = None, **options: Any) -> StepLoader:
    data = Samples([rows or Rows()])
    return StepLoader(data, collate, stream(state=state), **{"steps": 9, "micro_batch": 2, **options})


def digest(micro: MicroBatch) -> str:
    """Of all that a forward is given, and where it comes from."""
    found = hashlib.sha256("".join(micro.sources).encode())
    for name, tensor in sorted(micro.tensors.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def digests(batch: StepBatch) -> tuple[list[str], StreamState]:
    return [digest(micro) for micro in batch.micros], batch.state


@pytest.fixture(scope="module")
def steps(collate: Collator) -> list[tuple[list[str], StreamState]]:
    """Nine steps read without workers; they reach into the fourth epoch."""
    with loader(collate) as source:
        return [digests(source.next_step()) for _ in range(9)]


# ---- the same batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_ids_and_pixels(
    workers: int, collate: Collator, steps: list[tuple[list[str], StreamState]]
) -> None:
    assert len({name for micros, _ in steps for name in micros}) > 12
    with loader(collate, workers=workers) as source:
        assert [digests(source.next_step()) for _ in range(5)] == steps[:5]
        ahead = source._stream.state
    # What would be saved is what was given out, though the workers have gone further.
    assert ahead != steps[4][1] or workers == 0
    with loader(collate, workers=workers, state=steps[4][1]) as source:
        assert [digests(source.next_step()) for _ in range(4)] == steps[5:]


def rows_of(micro: MicroBatch) -> list[tuple[str, str]]:
    """What each row of a micro-batch is, without its padding."""
    found, tensors = [], micro.tensors
    for number, source in enumerate(micro.sources):
        there = tensors["attention_mask"][number].bool()
        parts = [tensors["input_ids"][number][there], tensors["labels"][number][there]]
        if "pixel_values" in tensors:
            parts.append(tensors["pixel_values"][number][tensors["image_mask"][number]])
        content = b"".join(part.numpy().tobytes() for part in parts if part.numel())
        found.append((source, hashlib.sha256(content).hexdigest()))
    return found


def global_batches(collate: Collator, ranks: int, **options: Any) -> list[list[tuple[str, str]]]:
    """The rows of each of six steps, of all processes together."""
    batches: list[list[tuple[str, str]]] = [[] for _ in range(6)]
    for rank in range(ranks):
        with loader(collate, rank=rank, ranks=ranks, **options) as source:
            for batch in batches:
                batch += [row for micro in source.next_step().micros for row in rows_of(micro)]
    return [sorted(batch) for batch in batches]


@pytest.mark.parametrize(("ranks", "micro_batch", "workers"), [(1, 4, 0), (1, 1, 2), (2, 2, 0), (2, 4, 2), (4, 4, 1)])
def test_any_split_of_a_global_batch_reads_the_same_rows(ranks: int, micro_batch: int, workers: int, collate: Collator) -> None:
    assert global_batches(collate, ranks, micro_batch=micro_batch, workers=workers) == global_batches(collate, 1)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 1)])
def test_an_epoch_has_every_sample_once(ranks: int, workers: int, collate: Collator) -> None:
    """Eleven steps of four are four epochs of eleven."""
    seen = []
    for rank in range(ranks):
        with loader(collate, steps=11, rank=rank, ranks=ranks, workers=workers) as source:
            micros = chain.from_iterable(source.next_step().micros for _ in range(11))
            seen += [name for micro in micros for name in micro.sources]
    assert sorted(seen) == sorted(4 * [f"rows:{index}" for index in range(ROWS)])


# ---- errors ------------------------------------------------------------------------------------------------------------------


class Bad(Rows):
    """Raises in one row."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def __getitem__(self, index: int) -> Sample:
        if index == 7:
            raise self.error
        return super().__getitem__(index)


class Unreadable(Rows):
    """The picture of one row raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()

        def opened(index: int) -> Any:
            if index == 7:
                raise error
            return picture(index)

        self.picture = lambda index: lambda: opened(index)


def read_all(source: StepLoader) -> None:
    with source:
        for _ in range(9):
            source.next_step()


def failure(collate: Collator, rows: Dataset, workers: int) -> DataError:
    return refused(DataError, lambda: read_all(loader(collate, rows, workers=workers)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("rows", "message", "reasons"),
    [
        (Bad(DataError("rows:7: text: missing", ["and more"])), "rows:7: text: missing", ("and more",)),
        (
            Bad(BadRowsError("rows", [], Rows())),  # which no other process could make again
            "`rows` has 0 faults in its rows:",
            (),
        ),
        (
            Bad(KeyError("caption")),
            "row 7 (from 0) of the stage's data cannot be read: KeyError: 'caption' (test_training_workers.py:LINE); mend the "
            "dataset or the part that raised this, or drop the row",
            (),
        ),
        (Unreadable(DataError("rows:7: image: damaged")), "rows:7: image: damaged", ()),
        (
            Unreadable(ZeroDivisionError("division by zero")),
            "no batch can be made of rows:9, rows:7: ZeroDivisionError: division by zero (test_training_workers.py:LINE); mend "
            "the dataset or the part that raised this, or drop the row",
            (),
        ),
    ],
    ids=["data error", "unsendable", "key error", "image", "image of a plugin"],
)
def test_an_error_is_the_same_with_workers_and_without(
    rows: Dataset, message: str, reasons: tuple[str, ...], collate: Collator
) -> None:
    for workers in (0, 2):
        error = failure(collate, rows, workers)
        place = error.message.partition("test_training_workers.py:")[2].partition(")")[0]
        assert error.message == message.replace("LINE", place)
        assert (error.reasons, error.exit_code) == (reasons, 3)
        assert "Traceback" not in str(error)
        if workers:
            assert "test_training_workers.py" in str(error.__cause__)  # where it was raised, for who wants to see it


def test_memory_that_is_used_up_stays_what_it_is(collate: Collator) -> None:
    """What makes a step smaller is said where the step is."""
    for workers in (0, 1):
        with pytest.raises(MemoryError):
            read_all(loader(collate, Bad(MemoryError()), workers=workers))


class Ending(Rows):
    """Ends the process that reads one row, as the kernel does where memory is used up."""

    def __getitem__(self, index: int) -> Sample:
        if index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_that_is_killed_ends_the_run_with_a_reason(collate: Collator) -> None:
    """Whether torch notices it first, or a pipe to it breaks."""
    for _ in range(3):
        error = refused(ResourceError, lambda: read_all(loader(collate, Ending(), workers=2)))
        # The other worker may have come to the same row, in a later epoch, before the first is missed.
        assert error.message.replace("(SIGKILL, SIGKILL)", "(SIGKILL)") == (
            "a process that reads data has ended (SIGKILL): memory, or shared memory, that is used up is the usual reason; "
            "lower `workers` (=2; 0 reads in the training's own process)"
        )


def test_other_errors_pass_and_leave_no_worker(collate: Collator) -> None:
    """The traceback holds everything, and still nothing is left running."""

    def read_and_fail() -> None:
        with loader(collate, workers=2) as source:
            source.next_step()
            raise RuntimeError("elsewhere")

    with pytest.raises(RuntimeError, match="elsewhere"):
        read_and_fail()


class Hanging(Rows):
    """Never comes back from one row."""

    def __getitem__(self, index: int) -> Sample:
        if index == 7:
            time.sleep(1000)
        return super().__getitem__(index)


@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_with_the_loader(collate: Collator) -> None:
    first = stream().next_batch()
    assert 7 not in [draw.index for (draw,) in first]
    with loader(collate, Hanging(), workers=2) as source:
        source.next_step()


def test_workers_are_forked_where_that_is_safe(collate: Collator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading.sys, "platform", "darwin")
    assert loader(collate)._workers == 0
    assert refused(ResourceError, lambda: loader(collate, workers=3)).message == (
        "`workers` (=3) are forked, which is safe on Linux alone: set `workers: 0` on this system"
    )


def test_tokenizers_do_not_warn_of_the_fork(
    collate: Collator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    collate.tokenizer(["a text", "and another"] * 8)
    with loader(collate, workers=1) as source:
        source.next_step()
    assert capfd.readouterr().err == ""
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with loader(collate, workers=1):
        pass
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


# ---- files that are open before ----------------------------------------------------------------------------------------------


class OneFile(Rows):
    """Reads its rows from one file, which it opens once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        path.write_text("".join(f"{index:{WIDE - 1}}\n" for index in range(ROWS)))
        self.file = path.open()

    def __getitem__(self, index: int) -> Sample:
        self.file.seek(WIDE * index)
        return super().__getitem__(int(self.file.read(WIDE)))


class OwnFile(OneFile):
    """Opens it again where it finds itself in another process."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path, self.process = path, os.getpid()

    def __getitem__(self, index: int) -> Sample:
        if os.getpid() != self.process:
            self.file, self.process = self.path.open(), os.getpid()
        return super().__getitem__(index)


def test_a_file_that_workers_would_share_is_found(
    collate: Collator, steps: list[tuple[list[str], StreamState]], tmp_path: Path
) -> None:
    """Two processes that move one position read each other's rows; nothing else would tell."""
    rows = OneFile(tmp_path / "rows")
    with loader(collate, rows) as source:
        assert digests(source.next_step()) == steps[0]
    assert failure(collate, rows, 2).message == (
        f"`{tmp_path / 'rows'}` was opened before the worker processes were started, and they read it from one shared "
        "position, so each could get what another asked for: let the dataset open it when it reads a row (in `__getitem__`), "
        "or set `workers: 0`"
    )
    with loader(collate, OwnFile(tmp_path / "rows"), workers=2) as source:
        assert [digests(source.next_step()) for _ in range(3)] == steps[:3]


# ---- whole runs --------------------------------------------------------------------------------------------------------------


def test_a_run_with_workers_is_the_run_without(tmp_path: Path) -> None:
    """Also where it is stopped while they have read ahead, and taken up with fewer, which is no other recipe."""
    rows = write_rows(tmp_path)
    train(recipe(rows), output=tmp_path / "without")
    stopped(tmp_path / "with", recipe(rows, workers=2), "align", 3)
    train(recipe(rows, workers=1), output=tmp_path / "with")
    assert [stage["workers"] for stage in json.loads((tmp_path / "with" / "recipe.json").read_text())["stages"]] == [1, 1]
    for stage in ("align", "instruct"):
        one, other = (read_log(tmp_path / run / stage) for run in ("without", "with"))
        assert one.losses == other.losses
        assert [line["epoch"] for line in one.steps] == [line["epoch"] for line in other.steps]
        for file in (tmp_path / "without" / stage / "checkpoint").glob("*.safetensors"):
            assert file.read_bytes() == (tmp_path / "with" / stage / "checkpoint" / file.name).read_bytes()


def test_memory_that_reading_uses_up_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Collator, "__call__", lambda self, samples: (_ for _ in ()).throw(MemoryError()))
    for workers in (0, 1):
        given = recipe(write_rows(tmp_path), workers=workers)
        message = refused(ResourceError, lambda given=given: train(given, output=tmp_path / "run")).message
        assert message.startswith("stage `align`, step 0: not enough memory (") and "lower `micro_batch` (=2)" in message


SCRIPT = """
import json, multiprocessing, sys, time
import torch
torch.set_num_threads(1)
from vlmzoo.training import fit as fitting
from vlmzoo.training.train import train

advance = fitting.StepProgress.advance

def slowly(self, loss, seconds):
    advance(self, loss, seconds)
    print(json.dumps([child.pid for child in multiprocessing.active_children()]), flush=True)
    time.sleep(0.2)

fitting.StepProgress.advance = slowly
train(json.loads(open(sys.argv[1]).read()), output=sys.argv[2])
"""


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_ended_leaves_no_worker(number: signal.Signals, tmp_path: Path) -> None:
    """SIGKILL reaches the training alone, SIGINT the whole group, as from a terminal."""
    rows = write_rows(tmp_path)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe(rows, workers=2, steps=500, save_every=400)))
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "recipe.json"), str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    workers = json.loads(run.stdout.readline())
    assert len(workers) == 2 and all(alive(worker) for worker in workers)
    if number == signal.SIGKILL:
        run.kill()
    else:
        os.killpg(run.pid, number)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == -number
    deadline = time.monotonic() + 20
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(worker) for worker in workers)
    if number == signal.SIGINT:
        assert "is saved after step" in said  # the step was finished with the workers, though they had the signal too
        assert (tmp_path / "run" / "align" / "resume" / "manifest.json").exists()


def test_the_digest_sees_one_pixel(collate: Collator) -> None:
    with loader(collate) as source:
        micro = next(micro for micro in source.next_step().micros if "pixel_values" in micro.tensors)
    before = digest(micro)
    micro.tensors["pixel_values"][0, 0, 0, 0, 0] += torch.tensor(1e-3)
    assert digest(micro) != before
