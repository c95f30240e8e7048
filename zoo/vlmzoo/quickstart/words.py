"""Whether words fit a picture: compared with its name, its tags, and the group of the nearest name there is."""

import re
from collections.abc import Sequence
from typing import Any

_SMALL = {"a", "an", "and", "in", "of", "on", "the", "with"}


def words(text: str) -> frozenset[str]:
    """The words of a text that carry meaning, in lower case."""
    return frozenset(re.findall(r"\w+", text.lower())) - _SMALL


class Names:
    """All names there are, with their tags and groups."""

    def __init__(self, labels: Sequence[dict[str, Any]]) -> None:
        self._tags = {label["label"]: words(" ".join([label["label"], *label.get("tags", ())])) for label in labels}
        self._named = [(words(label["label"]), label["group"]) for label in labels if "group" in label]

    def shares_a_word(self, truth: str, said: str) -> bool:
        """Whether what was said has a word of the true name or of its tags."""
        return bool(words(said) & self._tags[truth])

    def group_of(self, said: str) -> str | None:
        """The group of the name that shares most words with what was said; None where no name shares any, or groups tie."""
        spoken = words(said)
        best: dict[str, float] = {}
        for name, group in self._named:
            share = len(spoken & name) / max(1, len(spoken | name))
            best[group] = max(best.get(group, 0.0), share)
        top = max(best.values(), default=0.0)
        groups = [group for group, share in best.items() if share == top]
        return groups[0] if top > 0 and len(groups) == 1 else None
