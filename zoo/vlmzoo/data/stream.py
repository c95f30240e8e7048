"""The endless order in which samples are drawn: epoch after epoch, cut into batches of as many pieces each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from vlmzoo.data.randomness import keyed_generator
from vlmzoo_registry.errors import ConfigError, DataError

Indexes = tuple[int, ...]
"""The samples of a piece, by their places in the data."""


@dataclass(frozen=True)
class Draw:
    """A sample of the dataset, and the epoch in which it is drawn (augmentation is keyed by both)."""

    epoch: int
    index: int


Piece = tuple[Draw, ...]
"""What cannot be split between processes: one sample, or several that were put together."""


@dataclass(frozen=True)
class StreamState:
    """Where the stream stands: the next piece is the one at `position` of this epoch's order."""

    epoch: int = 0
    position: int = 0


class Order(ABC):
    """Implement this to say in which pieces an epoch's samples come: each sample once, the same pieces for the same epoch."""

    @abstractmethod
    def pieces(self, epoch: int, missing: int) -> list[Indexes]:
        """The pieces of an epoch.

        The first `missing` of them fill up the last batch of the epoch before: where batches are to be of a kind, they begin
        behind these. How many pieces there are does not depend on it.
        """


class Permutation(Order):
    """Each sample is a piece; their order is a permutation keyed by (seed, epoch), independent of every other random draw."""

    def __init__(self, length: int, *, seed: int) -> None:
        if length < 1:
            raise DataError(f"`length` (={length}) must be at least 1: there is no sample to draw")
        self._length = length
        self._seed = seed

    def indexes(self, epoch: int) -> list[int]:
        """The samples of an epoch, in their order."""
        order: list[int] = torch.randperm(self._length, generator=keyed_generator(self._seed, epoch, "order")).tolist()
        return order

    def pieces(self, epoch: int, missing: int) -> list[Indexes]:
        """One sample each."""
        return [(index,) for index in self.indexes(epoch)]


class BatchStream:
    """Draws `batch_size` pieces at a time; in every epoch each sample comes exactly once.

    A batch at the end of an epoch is filled from the next one, so that all batches have as many pieces. `state` is all that
    must be kept to go on from a batch border as if nothing had happened.
    """

    def __init__(self, order: Order, batch_size: int, *, state: StreamState | None = None) -> None:
        if batch_size < 1:
            raise ConfigError(f"`batch_size` (={batch_size}) must be at least 1")
        self.order = order
        self.batch_size = batch_size
        self.state = StreamState() if state is None else state
        # At a batch border, what an epoch gave to the last batch of the one before is what is left over whole batches.
        self._pieces = order.pieces(max(0, self.state.epoch), self.state.position % batch_size)
        if not (self.state.epoch >= 0 and 0 <= self.state.position < len(self._pieces)):
            raise DataError(
                f"the stream is to go on at piece {self.state.position} of epoch {self.state.epoch}, but the data makes "
                f"{len(self._pieces)} of them: it is not the data of the interrupted run"
            )

    def batches(self, epochs: int) -> int:
        """How many batches it takes from the very beginning until every sample was drawn `epochs` times."""
        pieces = sum(len(self.order.pieces(epoch, 0)) for epoch in range(epochs))
        return -(-pieces // self.batch_size)

    def __len__(self) -> int:
        """How many batches it takes until every sample was drawn."""
        return self.batches(1)

    def next_batch(self) -> list[Piece]:
        """The pieces of the next optimizer step; never ends."""
        epoch, position = self.state.epoch, self.state.position
        batch: list[Piece] = []
        while len(batch) < self.batch_size:
            taken = self._pieces[position : position + self.batch_size - len(batch)]
            batch += [tuple(Draw(epoch, index) for index in piece) for piece in taken]
            position += len(taken)
            if position == len(self._pieces):
                epoch, position = epoch + 1, 0
                self._pieces = self.order.pieces(epoch, self.batch_size - len(batch))
        self.state = StreamState(epoch, position)
        return batch
