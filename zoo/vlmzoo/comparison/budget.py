"""How many steps a budget is worth: the stage's own stream of samples is walked, without a model, until the budget is used.

Counted, not estimated: two cells that learn from the same words get exactly as many supervised tokens.
"""

from dataclasses import dataclass
from itertools import chain

from vlmzoo.config import BudgetConfig, Recipe
from vlmzoo.data import BatchStream, Collator
from vlmzoo.data.encode import IGNORE
from vlmzoo.training.samples import Samples, make_collator
from vlmzoo.without_values import without_values
from vlmzoo_registry import DataError


@dataclass(frozen=True)
class Length:
    """A number of optimizer steps, and the supervised tokens and images that the samples of these steps hold."""

    steps: int
    supervised_tokens: int
    images: int


class Counts:
    """How many supervised tokens and images each sample of a stage holds; each is read once."""

    def __init__(self, samples: Samples, collate: Collator) -> None:
        self.samples = samples
        self._collate = collate
        self._known: dict[int, tuple[int, int]] = {}

    def of(self, index: int) -> tuple[int, int]:
        """Supervised tokens and images of one sample. Raises `DataError` naming it where it cannot be used."""
        if index not in self._known:
            sample = self.samples[index]
            supervised = int((self._collate.encode(sample).labels != IGNORE).sum())
            self._known[index] = (supervised, len(sample.images))
        return self._known[index]


def length_of(counts: Counts, stream: BatchStream, budget: BudgetConfig) -> Length:
    """The fewest whole steps that use the budget up, walked as training will walk them: `stream` stands at its beginning.

    Raises `DataError` naming a row that cannot be used, and where no row has what the budget counts.
    """
    count = len(counts.samples)
    steps = tokens = images = 0
    while not _used_up(budget, steps, tokens, images):
        if budget.images is not None and images == 0 and steps == len(stream):
            raise DataError(f"none of the {count} samples has an image, so `budget.images` is never used up")
        for draw in chain.from_iterable(stream.next_batch()):
            held = counts.of(draw.index)
            tokens, images = tokens + held[0], images + held[1]
        steps += 1
    return Length(steps, tokens, images)


def text_collator(recipe: Recipe) -> Collator:
    """What makes rows of the samples of the last stage, as training will, from parts without weights.

    Raises `AssemblyError` where the tokenizer cannot be read.
    """
    return make_collator(without_values(recipe.model), recipe.stages[-1])


def _used_up(budget: BudgetConfig, steps: int, tokens: int, images: int) -> bool:
    if budget.supervised_tokens is not None:
        return tokens >= budget.supervised_tokens
    if budget.images is not None:
        return images >= budget.images
    return steps >= (budget.steps or 0)
