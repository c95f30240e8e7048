"""The metrics of the tasks plugin against values worked out by hand."""

import pytest

from vlmzoo_registry import NoOptions
from vlmzoo_tasks.exact import ExactMetric
from vlmzoo_tasks.words import WordsMetric


@pytest.mark.parametrize(
    ("truth", "said", "score"),
    [
        ("red car", "red car", 1),
        ("red car", " Red \n CAR. ", 1),
        ("Straße", "STRASSE", 1),
        ("yes", "yes .", 1),
        ("yes", "yes..", 0),
        ("yes", "yes!", 0),
        ("red car", "a red car", 0),
        ("red car", "redcar", 0),
        ("café", "cafe", 0),
        ("", "", 1),
        ("", "x", 0),
        ("x", "", 0),
    ],
)
def test_exact(truth, said, score):
    assert ExactMetric(NoOptions()).score(truth, said) == score


@pytest.mark.parametrize(
    ("truth", "said", "score"),
    [
        ("a red car", "a red car", 1),
        ("a red car", "CAR, red: a!", 1),
        ("a red car", "red", 2 * 1 * (1 / 3) / (1 + 1 / 3)),  # all said is true, a third of the truth is said
        ("red", "a red car", 0.5),
        ("a red car", "a blue car", 2 / 3),
        ("no no", "no", 2 / 3),  # each word as often as in both
        ("no", "no no no no", 2 / 5),
        ("red", "blue", 0),
        ("", "", 1),
        ("", "red", 0),
        ("red", "...", 0),
        ("!", "?", 1),
    ],
)
def test_words(truth, said, score):
    assert WordsMetric(NoOptions()).score(truth, said) == pytest.approx(score)
