"""The nearest valid name, for every "did you mean".

One measure for keys, component names and plugins, so that the same slip gets the same help everywhere.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def edit_distance(first: str, second: str) -> int:
    """How many insertions, deletions, substitutions and swaps of neighbours turn one word into the other."""
    before: list[int] = []
    previous = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        current = [i]
        for j, b in enumerate(second, start=1):
            cost = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            current.append(cost)
        before, previous = previous, current
    return previous[-1]


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` was most likely meant to be, or None where none is near enough.

    Upper and lower case and `-` and `_` count as the same; among equally near candidates the first in the alphabet wins.
    """

    def plain(word: str) -> str:
        return word.lower().replace("_", "-")

    words = sorted(set(candidates))
    if not words:
        return None
    distance, word = min((edit_distance(plain(name), plain(word)), word) for word in words)
    if distance <= max(1, len(name) // 4) and distance < max(len(name), len(word)):
        return word
    by_plain = {plain(word): word for word in reversed(words)}
    close = get_close_matches(plain(name), list(by_plain), n=1, cutoff=0.6)
    return by_plain[close[0]] if close else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean `x`?`, or nothing where no candidate is near: to be put behind "no such name"."""
    word = nearest(name, candidates)
    return "" if word is None else f"; did you mean `{word}`?"
