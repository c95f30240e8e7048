"""How many steps a budget is worth: the stage's own stream of samples is walked, without a model, until the budget is used.

Counted, not estimated: two cells that learn from the same words get exactly as many supervised tokens.
"""

from dataclasses import dataclass, replace
from itertools import chain

from vlmzoo.config import BudgetConfig
from vlmzoo.data import BatchStream, Collator, Draw
from vlmzoo.data.encode import IGNORE
from vlmzoo.training.samples import Samples
from vlmzoo_registry import DataError, Objective


@dataclass(frozen=True)
class Length:
    """A number of optimizer steps, and the supervised tokens and images that the samples of these steps hold."""

    steps: int
    supervised_tokens: int
    images: int


def hides_at_random(objective: Objective) -> bool:
    """Whether an objective changes rows, by draws that differ with the seed and the epoch; by default it does not."""
    return type(objective).corrupt is not Objective.corrupt


class Counts:
    """How many supervised tokens and images each sample of a stage holds.

    Each is read once, or where the objective hides other tokens in every epoch, once in each.
    """

    def __init__(self, samples: Samples, collate: Collator) -> None:
        self.samples = samples
        self._collate = collate
        self._every_epoch = hides_at_random(collate.objective)
        self._known: dict[Draw, tuple[int, int]] = {}

    def of(self, draw: Draw) -> tuple[int, int]:
        """Supervised tokens and images of a sample as it is drawn. Raises `DataError` naming it where it cannot be used."""
        drawn = draw if self._every_epoch else Draw(0, draw.index)
        if drawn not in self._known:
            sample = replace(self.samples[drawn.index], epoch=drawn.epoch)
            supervised = int((self._collate.encode(sample).labels != IGNORE).sum())
            self._known[drawn] = (supervised, len(sample.images))
        return self._known[drawn]


def length_of(counts: Counts, stream: BatchStream, budget: BudgetConfig) -> Length:
    """The fewest whole steps that use the budget up, walked as training will walk them: `stream` stands at its beginning.

    Raises `DataError` naming a row that cannot be used, and where no row has what the budget counts.
    """
    count = len(counts.samples)
    epoch = len(stream)  # walks all pieces of an epoch
    steps = tokens = images = 0
    while not _used_up(budget, steps, tokens, images):
        if budget.images is not None and images == 0 and steps == epoch:
            raise DataError(f"none of the {count} samples has an image, so `budget.images` is never used up")
        for draw in chain.from_iterable(stream.next_batch()):
            held = counts.of(draw)
            tokens, images = tokens + held[0], images + held[1]
        steps += 1
    return Length(steps, tokens, images)


def _used_up(budget: BudgetConfig, steps: int, tokens: int, images: int) -> bool:
    if budget.supervised_tokens is not None:
        return tokens >= budget.supervised_tokens
    if budget.images is not None:
        return images >= budget.images
    return steps >= (budget.steps or 0)
