"""Did you mean: a slip of one letter in a real name leads back to it, and strangers lead nowhere."""

import random
import string

import pytest

from vlmzoo_registry import Catalogue, did_you_mean, nearest
from vlmzoo_registry.suggest import edit_distance

KEYS = ["lr", "model", "vision", "connector", "language", "template", "architecture", "stages", "objective", "data", "train"]


def slips(word):
    """Every word at one deletion, swap of neighbours, substitution or insertion from this one."""
    letters = string.ascii_lowercase
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    deleted = {left + right[1:] for left, right in cuts if right}
    swapped = {left + right[1] + right[0] + right[2:] for left, right in cuts if len(right) > 1}
    changed = {left + letter + right[1:] for left, right in cuts if right for letter in letters}
    added = {left + letter + right for left, right in cuts for letter in letters}
    return (deleted | swapped | changed | added) - {word, ""}


def test_slips_of_one_letter_lead_back():
    draw = random.Random(0)
    names = {component.full_name for component in Catalogue.discover(quiet=True).components()}
    assert len(names) >= 10
    for words in (sorted(names), KEYS):
        cases = [(slip, word) for word in words for slip in draw.sample(sorted(slips(word) - set(words)), 40)]
        right = sum(nearest(slip, words) == word for slip, word in cases)
        assert right >= 0.95 * len(cases), f"{right} of {len(cases)}"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("Connector", "connector"),
        ("visoin", "vision"),
        ("langauge_model", "language"),
        ("objectives", "objective"),
        ("arch", None),
        ("zebra", None),
        ("", None),
        ("x", None),
    ],
)
def test_examples(name, word):
    assert nearest(name, KEYS) == word


def test_separators_and_case_are_the_same():
    assert nearest("pixel_shuffle", ["pixel-shuffle", "linear"]) == "pixel-shuffle"
    assert nearest("open-clip", ["open_clip", "timm"]) == "open_clip"


def test_no_candidates_and_ties():
    assert nearest("x", []) is None
    assert nearest("cap", ["map", "cab"]) == nearest("cap", ["cab", "map"]) == "cab"


def test_the_phrase():
    assert did_you_mean("visoin", KEYS) == "; did you mean `vision`?"
    assert did_you_mean("zebra", KEYS) == ""


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 1), ("kitten", "sitting", 3), ("ca", "abc", 3)],
)
def test_edit_distance(first, second, distance):
    assert edit_distance(first, second) == edit_distance(second, first) == distance
