"""A row that is too long, cut by rule: whole later exchanges first, then the end of the last answer; never an image.

A cut answer has no end token, so that nobody learns to stop where a row had to.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from vlmzoo.data.encode import Encoded
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import IMAGE, Sample
from vlmzoo_registry.token_row import IGNORE, TokenRow


@dataclass(frozen=True)
class LengthRule:
    """How many tokens a row of training may have, and whether a longer one is cut; else it is refused."""

    most: int
    cuts: bool = False


class TooLongError(DataError):
    """A row has more tokens than it may have, and is not cut, or cannot be."""


@dataclass(frozen=True)
class Fitted:
    """A sample with the turns that it keeps, its tokens, and whether anything of it was cut."""

    sample: Sample
    row: TokenRow
    cut: bool


def cut_to(most: int, sample: Sample, encode: Callable[[Sample], Encoded]) -> Fitted | None:
    """A sample of at most `most` tokens; None where that would take an image or the whole of an answer.

    As many exchanges as fit are kept whole, from the first on and at least up to the last image. Where these are too long by
    themselves, the last of their answers is cut from its end, token by token, and its end is not learnt: whoever learns that an
    answer ends where a row was full learns to break off. At least one token of it that says something stays.
    """
    ends = _ends(sample)
    if not ends:
        return None

    @cache
    def encoded(end: int) -> Encoded:
        return encode(replace(sample, turns=sample.turns[:end]))

    fit = bisect_right(ends, most, key=lambda end: len(encoded(end).row.input_ids))
    end = ends[max(fit, 1) - 1]
    kept = replace(sample, turns=sample.turns[:end])
    row, least = encoded(end).row, encoded(end).least
    if fit:
        return Fitted(kept, row, cut=end < len(sample.turns))
    if max(least, 1) > most or bool((row.labels[:most] == IGNORE).all()):
        return None
    weights = None if row.weights is None else row.weights[:most]
    return Fitted(kept, replace(row, input_ids=row.input_ids[:most], labels=row.labels[:most], weights=weights), cut=True)


def _ends(sample: Sample) -> list[int]:
    """Behind which turns a conversation may end: those of the assistant from the last image on."""
    images = max((number for number, turn in enumerate(sample.turns) if IMAGE in turn.text), default=0)
    return [number + 1 for number, turn in enumerate(sample.turns) if turn.role == "assistant" and number >= images]
