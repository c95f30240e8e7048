"""The batches of a stage, step by step: read in the training process, or ahead of it by worker processes.

Which rows stand in which micro-batch of which process is decided here, before anybody reads, so it is the same for any number
of workers.
"""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from vlmzoo.data import BatchStream, Collator, Draw, StreamState
from vlmzoo.data.lengths import Lengths
from vlmzoo.training.micro_batch import MicroBatch, read_micro_batch
from vlmzoo.training.samples import Samples
from vlmzoo.training.shared_files import SharedFiles
from vlmzoo_registry import (
    AssemblyError,
    CheckpointError,
    ConfigError,
    DataError,
    PluginError,
    ResourceError,
    VlmzooError,
)
from vlmzoo_registry.compat.torch import shut_down_workers

Share = tuple[Draw, ...]
"""The draws of one micro-batch that one process reads."""


@dataclass(frozen=True)
class StepBatch:
    """What a process learns from in one optimizer step; `state` is where the stream stands behind it."""

    micros: tuple[MicroBatch, ...]
    state: StreamState


class StepLoader:
    """Gives the batches of `steps` optimizer steps, one by one, to the process `rank` of `ranks`; to be used in a `with`.

    A step's pieces are cut into micro-batches, of each of which a process takes every `ranks`-th piece. Where its order was
    made from `lengths`, a row that has another length by now ends the run.

    With `workers`, so many processes read ahead. They are forked: everything is there at once, and nothing has to be pickled,
    neither datasets nor parts that a local file brought. They ignore SIGINT and SIGTERM, which are sent to whole groups of
    processes, and end when the loader is left or when its process is no more.

    Raises `ResourceError` where workers are wanted and processes cannot be forked safely, and where one of them ends unasked;
    what a worker raises is raised here, as it would be without workers. `DataError` where workers share a position in a file.
    """

    def __init__(
        self,
        rows: Samples,
        collate: Collator,
        stream: BatchStream,
        *,
        steps: int,
        micro_batch: int,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        lengths: Lengths | None = None,
    ) -> None:
        if workers and sys.platform != "linux":
            raise ResourceError(
                f"`workers` (={workers}) are forked, which is safe on Linux alone: set `workers: 0` on this system"
            )
        self._reader = _Reader(rows, collate, lengths)
        self._stream, self._steps, self._micro_batch = stream, steps, micro_batch
        self._rank, self._ranks, self._workers = rank, ranks, workers
        # Of steps drawn and not given out: the number of micro-batches, and where the stream stood behind them. A worker reads
        # ahead of the training, whose place in the data is that of the steps that are done.
        self._drawn: deque[tuple[int, StreamState]] = deque()
        self._made: Iterator[MicroBatch | Failure] = iter(())
        self._started: list[BaseProcess] = []
        self._files: SharedFiles | None = None

    def __enter__(self) -> "StepLoader":
        if not self._workers:
            self._made = map(self._reader.read, self._shares())
            return self
        self._files = SharedFiles()
        before = multiprocessing.active_children()
        with _quiet_tokenizers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about more workers than cores, in the words of another program's options
            loader = DataLoader(
                self._reader,
                batch_size=None,  # what the sampler gives is read as a whole
                sampler=self._shares(),
                num_workers=self._workers,
                collate_fn=_as_it_is,
                worker_init_fn=_leave_signals_to_the_training,
                multiprocessing_context="fork",
                generator=torch.Generator(),  # its seed is not drawn from the training's
            )
            self._made = iter(loader)
        self._started = [child for child in multiprocessing.active_children() if child not in before]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with _unheard_children():
            ended = self._ended(error)
            shut_down_workers(self._made)
            for worker in self._started:
                worker.kill()  # those in which reading hangs
                worker.join()
        if ended and isinstance(error, Exception) and not isinstance(error, VlmzooError):
            raise ResourceError(
                f"a process that reads data has ended ({', '.join(ended)}): memory, or shared memory, that is used up is the "
                f"usual reason; lower `workers` (={self._workers}; 0 reads in the training's own process)"
            ) from error

    def _ended(self, error: BaseException | None) -> list[str]:
        """How workers have ended that nobody has asked to; torch tells of it anywhere in the training, or a pipe breaks."""
        if isinstance(error, OSError | EOFError):
            # A pipe breaks a little before its process is gone.
            closed = wait([worker.sentinel for worker in self._started], timeout=1)
            for worker in self._started:
                if worker.sentinel in closed:
                    worker.join()
        codes = [worker.exitcode for worker in self._started if worker.exitcode]
        return [signal.Signals(-code).name if code < 0 else f"exit code {code}" for code in codes]

    def next_step(self) -> StepBatch:
        """The batch of the next optimizer step. Raises `DataError` for rows that cannot be used."""
        first = self._next_micro()
        count, state = self._drawn.popleft()
        return StepBatch((first, *(self._next_micro() for _ in range(count - 1))), state)

    def _next_micro(self) -> MicroBatch:
        made = next(self._made)
        if self._files is not None:
            self._files.check()
        if isinstance(made, Failure):
            raise made.error from RuntimeError(made.trace)
        return made

    def _shares(self) -> Iterator[Share]:
        """What this process reads, micro-batch by micro-batch; a step is drawn when its first micro-batch is asked for."""
        for _ in range(self._steps):
            pieces = self._stream.next_batch()
            micros = [pieces[start : start + self._micro_batch] for start in range(0, len(pieces), self._micro_batch)]
            self._drawn.append((len(micros), self._stream.state))
            for micro in micros:
                yield tuple(draw for piece in micro[self._rank :: self._ranks] for draw in piece)


@dataclass(frozen=True)
class Failure:
    """What a worker sends instead of a batch: an error that is written for the reader, and the traceback for `--debug`."""

    error: VlmzooError
    trace: str


class _Reader(TorchDataset[Any]):
    """Reads a micro-batch: in the training's process with `read`, in a worker by subscript."""

    def __init__(self, rows: Samples, collate: Collator, lengths: Lengths | None) -> None:
        self._rows, self._collate, self._lengths = rows, collate, lengths

    def read(self, share: Share) -> MicroBatch:
        return read_micro_batch(self._rows, self._collate, share, self._lengths)

    def __getitem__(self, share: Share) -> MicroBatch | Failure:
        try:
            return self.read(share)
        except VlmzooError as error:
            return Failure(_sendable(error), traceback.format_exc())


_KINDS = (AssemblyError, ConfigError, DataError, PluginError, CheckpointError, ResourceError, VlmzooError)


def _sendable(error: VlmzooError) -> VlmzooError:
    """The same words as an error of vlmzoo's own, which any process can make again; a plugin's may hold anything."""
    kind = next(kind for kind in _KINDS if isinstance(error, kind))
    return kind(error.message, error.reasons)


def _as_it_is(made: Any) -> Any:
    return made


@contextmanager
def _unheard_children() -> Iterator[None]:
    """While workers are ended: torch's handler raises, wherever the process is, each time it hears that one has failed."""
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


@contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """Tokenizers that have used threads warn in a forked process, and hang there where they are told to go on using them."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _leave_signals_to_the_training(worker: int) -> None:
    """A signal to the whole group asks the training to finish its step, for which it needs its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
