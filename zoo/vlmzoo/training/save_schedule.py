"""The steps after which a stage is saved: every so many of them, and where these take long once enough time has gone by."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARE = 10.0
"""So many times as long as a save took, none is made by the clock: of a large model, one after each step could take more time
than the steps."""


class SaveSchedule:
    """Says after each step whether a point is due.

    One is due when the number of steps done is a multiple of `every`, or `minutes` after the last one was saved; until there is
    one, after this was made, which is right before a stage's first step (what is done before that is kept in files of its own).
    Without `minutes` only steps count. `clock` gives seconds.

    One process keeps the time for all: the clocks of several would not agree.
    """

    def __init__(self, every: int, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._patience = None if minutes is None else 60 * minutes
        self._since, self._took = clock(), 0.0

    def due(self, done: int) -> bool:
        """Whether to save now that so many steps are done."""
        if done % self._every == 0:
            return True
        return self._patience is not None and self._clock() - self._since >= max(self._patience, SHARE * self._took)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """To be entered while a point is saved: how long that takes, and when it is done, decides about the next one."""
        began = self._clock()
        yield
        self._since = self._clock()
        self._took = self._since - began
