"""The endless order in which samples are drawn: permutation after permutation, cut into batches of one size."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from vlmzoo.data.randomness import keyed_generator
from vlmzoo_registry.errors import ConfigError, DataError


@dataclass(frozen=True)
class Draw:
    """A sample of the dataset, and the epoch in which it is drawn (augmentation is keyed by both)."""

    epoch: int
    index: int


Piece = tuple[Draw, ...]
"""What cannot be split between processes: one sample, or a pack of samples that share a row."""


@dataclass(frozen=True)
class StreamState:
    """Where the stream stands: the next piece is the one at `position` of this epoch's order."""

    epoch: int = 0
    position: int = 0


class BatchStream(ABC):
    """Implement this to say which pieces each optimizer step learns from.

    `state` is all that must be kept to go on from a batch border as if nothing had happened.
    """

    state: StreamState

    @abstractmethod
    def next_batch(self) -> list[Piece]:
        """The pieces of the next optimizer step; never ends."""

    @abstractmethod
    def batches(self, epochs: int) -> int:
        """How many batches it takes from the beginning until every sample was drawn `epochs` times."""

    def __len__(self) -> int:
        """How many batches it takes until every sample was drawn."""
        return self.batches(1)


class SampleStream(BatchStream):
    """Draws `batch_size` samples at a time; in every epoch each of the `length` samples comes exactly once.

    The order of an epoch is a permutation keyed by (seed, epoch), independent of every other random draw. A batch at the
    end of an epoch is filled from the next one, so that all batches have the same size; with `len(stream)` batches an epoch
    is complete.
    """

    def __init__(self, length: int, batch_size: int, *, seed: int, state: StreamState | None = None) -> None:
        if length < 1:
            raise DataError(f"`length` (={length}) must be at least 1: there is no sample to draw")
        if batch_size < 1:
            raise ConfigError(f"`batch_size` (={batch_size}) must be at least 1")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.state = StreamState() if state is None else state
        if not (self.state.epoch >= 0 and 0 <= self.state.position < length):
            raise DataError(
                f"the stream is to go on at sample {self.state.position} of epoch {self.state.epoch}, but the data has "
                f"{length} samples: it is not the data of the interrupted run"
            )
        self._order = self._permutation(self.state.epoch)

    def batches(self, epochs: int) -> int:
        """The samples of so many epochs, in batches of one size."""
        return -(-epochs * self.length // self.batch_size)

    def next_batch(self) -> list[Piece]:
        """The next `batch_size` samples, each a piece of its own; never ends."""
        epoch, position = self.state.epoch, self.state.position
        pieces: list[Piece] = []
        for _ in range(self.batch_size):
            pieces.append((Draw(epoch, self._order[position]),))
            position += 1
            if position == self.length:
                epoch, position = epoch + 1, 0
                self._order = self._permutation(epoch)
        self.state = StreamState(epoch, position)
        return pieces

    def _permutation(self, epoch: int) -> list[int]:
        order: list[int] = torch.randperm(self.length, generator=keyed_generator(self.seed, epoch, "order")).tolist()
        return order
