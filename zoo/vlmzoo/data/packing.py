"""Packs: samples put together so that nearly all tokens of a row of fixed length are real, in an order that stays random.

Best fit over a buffer of the epoch's permutation: a pack takes its samples in their order, and only the last by its length.
"""

from bisect import bisect_right, insort
from itertools import chain

from vlmzoo.data.grouping import Budget, in_groups
from vlmzoo.data.lengths import Lengths
from vlmzoo.data.randomness import keyed_generator
from vlmzoo.data.stream import Indexes, Order, Permutation

_SHORT = 0.2  # the share of samples that count as short ones
_GROUPS = 4  # groups of packs that are sorted by images together: more would be more alike, and less random


class Packed(Order):
    """Packs of at most `budget.tokens` tokens and `budget.images` images (views of them).

    The packs of a group (what one forward sees, over all processes) hold similar numbers of images, so that processes wait
    little for each other; the groups come in random order.
    """

    def __init__(self, lengths: Lengths, *, budget: Budget, group: int, buffer: int, seed: int) -> None:
        self._lengths = lengths
        self._permutation = Permutation(len(lengths), seed=seed)
        self._budget = budget
        self._group = group
        self._buffer = buffer
        self._seed = seed

    def pieces(self, epoch: int, missing: int) -> list[Indexes]:
        """The packs of an epoch."""
        packs = best_fit(self._permutation.indexes(epoch), self._lengths, self._budget, self._buffer)
        images = self._lengths.images
        window = _GROUPS * self._group
        by_images = [
            sorted(packs[start : start + window], key=lambda pack: sum(images[index] for index in pack))
            for start in range(0, len(packs), window)
        ]
        alike = list(chain.from_iterable(by_images))
        return in_groups([alike], self._group, missing, keyed_generator(self._seed, epoch, "groups"))


def best_fit(order: list[int], lengths: Lengths, budget: Budget, buffer: int) -> list[Indexes]:
    """Packs of the samples of an order, of which `buffer` wait at a time.

    Each pack takes the samples that wait longest, as long as a short one (a fifth of all are no longer) still fits behind them;
    then those that fill it best. So no sample waits for long, a pack has few that were chosen by their length, and these nearly
    always fill it.

    Every sample must fit into a pack alone.
    """
    tokens, images = lengths.tokens, lengths.images
    most_images = sum(images) if budget.images is None else budget.images
    short = sorted(tokens)[int(_SHORT * (len(tokens) - 1))]
    waiting: dict[int, list[tuple[int, int]]] = {}  # number of images: (tokens, place in the order), sorted
    left = [True] * len(order)  # not yet in a pack
    admitted = oldest = packed = 0
    packs: list[Indexes] = []
    while packed < len(order):
        while admitted < len(order) and admitted - packed < buffer:
            index = order[admitted]
            insort(waiting.setdefault(images[index], []), (tokens[index], admitted))
            admitted += 1
        room, room_images = budget.tokens, most_images
        pack: list[int] = []
        while not left[oldest]:
            oldest += 1
        place = oldest
        in_order = True
        while True:
            while in_order and place < admitted and not left[place]:
                place += 1
            if in_order and place < admitted:
                behind = room - tokens[order[place]]
                in_order = images[order[place]] <= room_images and (behind >= short or not pack)
            if not in_order or place == admitted:
                best = _best(waiting, room, room_images, admitted)
                if best is None:
                    break
                in_order, chosen = False, best
            else:
                chosen = place
            index = order[chosen]
            same = waiting[images[index]]
            del same[bisect_right(same, (tokens[index], chosen)) - 1]
            left[chosen] = False
            room, room_images = room - tokens[index], room_images - images[index]
            pack.append(index)
            packed += 1
        packs.append(tuple(pack))
    return packs


def _best(waiting: dict[int, list[tuple[int, int]]], room: int, room_images: int, admitted: int) -> int | None:
    """The place of the longest sample that fits; None where none does."""
    best = (-1, -1)
    for images, found in waiting.items():
        if images <= room_images and (fitting := bisect_right(found, (room, admitted))):
            best = max(best, found[fitting - 1])
    return None if best[1] < 0 else best[1]
