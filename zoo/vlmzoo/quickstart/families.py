"""Which pictures show nearly the same thing: the rule behind the fields `family` and `kind` of the shipped labels.

A concept held out from training says little where its twin was trained on (a red and a green apple, a man and a woman who
cook, one o'clock and two o'clock), so whole families are held out. The rule errs on the side of too large a family.
"""

import re
from collections.abc import Mapping
from typing import Any

GROUPS = {
    "smiley": "smileys-emotion",
    "person": "people-body",
    "animal": "animals-nature",
    "plant": "animals-nature",
    "food": "food-drink",
    "drink": "food-drink",
    "tableware": "food-drink",
    "place or vehicle": "travel-places",
    "activity": "activities",
    "object": "objects",
    "symbol": "symbols",
    "flag": "flags",
    "skin tone": "component",
}
"""The kinds of things that the quickstart asks for, and the group of emojibase that each is, or is a part of."""

_PARTED = {"animal": "animal", "plant": "plant", "food": "food", "drink": "drink", "dishware": "tableware"}
"""The kind of a subgroup, by its first word, where a group has several."""

_ALIKE = re.compile(r"face-|hand|heart$|keycap$|alphanum$|av-symbol$|arrow$|geometric$|zodiac$|lock$|family$|money$")
"""Subgroups whose pictures are variants of one another: each is one family."""

_PEOPLE = {"person", "man", "woman", "men", "women", "people", "boy", "girl", "child", "adult", "old", "older"}
_VIEWS = {"left", "right", "up", "down", "face", "oncoming", "departure", "arrival", "done"}
_REST = re.compile(r"\s*(?:\(|\b(?:with|without|of|in|on|behind|showing|pointing|tilted|facing|over|not)\b)")


def kind_of(label: Mapping[str, Any]) -> str:
    """The kind of thing a label's picture shows."""
    parted = _PARTED.get(label["subgroup"].partition("-")[0])
    return parted or next(kind for kind, group in GROUPS.items() if group == label["group"])


def family_of(label: Mapping[str, Any]) -> str:
    """The family of a label: the last word that names the thing, or the whole subgroup where its pictures are all alike.

    `red apple` and `green apple` are `apple`; what follows a preposition, a colon or a bracket is left out (`person
    kneeling: facing right` is `kneeling`), and so are words for people and for views (`man health worker` is `worker`, `dog
    face` is `dog`); a plural is its singular. Clock times, moon phases and portraits are one family each; a flag stands alone.
    """
    name, subgroup = label["label"].lower().replace("’", "'"), label["subgroup"]
    if label["group"] == "flags":
        return name
    if re.search(r"o'clock|-thirty", name):
        return "clock"
    if "moon" in name and subgroup == "sky-weather":
        return "moon"
    if subgroup == "person":
        return "portrait"
    if name.startswith("family"):
        return "family"
    if _ALIKE.match(subgroup):
        return str(subgroup)
    if re.match(r"mer(man|maid|person)", name):
        return "merperson"
    name = name.split(":")[0]
    head = _REST.split(name, maxsplit=1)[0]
    for part in (head, name):
        words = [word for word in re.findall(r"[\w'-]+", part) if word not in _PEOPLE | _VIEWS]
        if words:
            return _singular(words[-1])
    return _singular(name)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")) else word
