"""Orders in which what one forward sees is alike: of similar length, of one modality, or as many samples as a budget takes.

Only the samples of one forward (a micro-batch) are alike; the micro-batches of a step are of all kinds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch

from vlmzoo.data.lengths import Lengths
from vlmzoo.data.randomness import keyed_generator
from vlmzoo.data.stream import Indexes, Order, Permutation


@dataclass(frozen=True)
class Budget:
    """What a piece may hold: this many `tokens`, and this many `images` (views of them; None: any number).

    `padded`: each sample counts as many tokens as the longest of its piece.
    """

    tokens: int
    images: int | None = None
    padded: bool = False


class Grouped(Order):
    """Samples of similar length together; `by="modality"`: besides, none without an image beside one that has one.

    In the permutation of the epoch samples are sorted by length within windows of `buffer` (transformers' `group_by_length`,
    which LLaVA splits by modality), and cut into pieces: of one sample each, or of as many as the `budget` takes. Groups of
    `group` pieces, what one forward sees, come in random order. With `by="none"` nothing is sorted.

    A few groups are mixed: of what does not fill a group of its kind, and where the last batch of an epoch is filled up.
    """

    def __init__(
        self,
        lengths: Lengths,
        *,
        by: Literal["none", "length", "modality"],
        group: int,
        buffer: int,
        seed: int,
        budget: Budget | None = None,
    ) -> None:
        self._lengths = lengths
        self._permutation = Permutation(len(lengths), seed=seed)
        self._by: Literal["none", "length", "modality"] = by
        self._group = group
        self._buffer = buffer
        self._seed = seed
        self._budget = budget

    def pieces(self, epoch: int, missing: int) -> list[Indexes]:
        """Groups of pieces that are alike, in random order."""
        order = self._permutation.indexes(epoch)
        images = self._lengths.images
        kinds = [order]
        if self._by == "modality":
            kinds = [[index for index in order if images[index]], [index for index in order if not images[index]]]
        if self._by != "none":
            kinds = [sorted_within(kind, self._lengths.tokens, self._buffer) for kind in kinds]
        cut: list[list[Indexes]] = [
            [(index,) for index in kind] if self._budget is None else runs(kind, self._lengths, self._budget) for kind in kinds
        ]
        return in_groups(cut, self._group, missing, keyed_generator(self._seed, epoch, "groups"))


def sorting_buffer(lengths: Lengths, group: int, budget: Budget | None) -> int:
    """How many samples are sorted together where nobody says: those of 50 groups, and at most a quarter of all.

    So it is in transformers: with fewer a group is less alike, and samples that are all sorted make the same groups every time.
    """
    each = 1.0 if budget is None else max(1.0, budget.tokens * len(lengths) / max(1, sum(lengths.tokens)))
    return max(1, min(round(50 * group * each), len(lengths) // 4))


def sorted_within(order: Sequence[int], tokens: Sequence[int], window: int) -> list[int]:
    """Sorted by length within each window, up in one and down in the next: what stands at a border is alike too."""
    windows = [sorted(order[start : start + window], key=tokens.__getitem__) for start in range(0, len(order), window)]
    return list(chain.from_iterable(found[:: -1 if number % 2 else 1] for number, found in enumerate(windows)))


def runs(order: Sequence[int], lengths: Lengths, budget: Budget) -> list[Indexes]:
    """An order cut into pieces of as many samples as the budget takes, one at least."""
    most_images = float("inf") if budget.images is None else budget.images
    pieces: list[Indexes] = []
    piece: list[int] = []
    held = longest = images = 0
    for index in order:
        more, shown = lengths.tokens[index], lengths.images[index]
        cost = max(longest, more) * (len(piece) + 1) if budget.padded else held + more
        if piece and (cost > budget.tokens or images + shown > most_images):
            pieces.append(tuple(piece))
            piece, held, longest, images = [], 0, 0, 0
        piece.append(index)
        held, longest, images = held + more, max(longest, more), images + shown
    if piece:
        pieces.append(tuple(piece))
    return pieces


def in_groups(kinds: Sequence[list[Indexes]], group: int, missing: int, generator: torch.Generator) -> list[Indexes]:
    """The pieces of all kinds in groups of `group` of one kind, the groups in random order.

    So many pieces come first as bring the groups behind them to the borders of those that `missing` ones begin with; they and
    the last ones are what fills no group of its kind.
    """
    groups = [kind[start : start + group] for kind in kinds for start in range(0, len(kind) - group + 1, group)]
    rest = [piece for kind in kinds for piece in kind[len(kind) - len(kind) % group :]]
    first = missing % group
    if len(rest) < first and groups:
        rest = [*groups.pop(), *rest]
    head, rest = rest[:first], rest[first:]
    whole = len(rest) - len(rest) % group
    groups += [rest[start : start + group] for start in range(0, whole, group)]
    shuffled = (groups[place] for place in torch.randperm(len(groups), generator=generator).tolist())
    return [*head, *chain.from_iterable(shuffled), *rest[whole:]]
