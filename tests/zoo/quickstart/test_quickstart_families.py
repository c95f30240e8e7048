"""What is held out is held out with its twins: the rule of families, and the labels that were made by it."""

from collections import defaultdict

import pytest

from vlmzoo.quickstart.assets import NOTO
from vlmzoo.quickstart.families import family_of, kind_of
from vlmzoo.quickstart.styles import read_labels
from vlmzoo_tasks.sheet import held_out

ASKED_ABOUT = {"smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places", "activities", "objects"}


@pytest.fixture(scope="module")
def labels():
    return read_labels(NOTO.labels)


def test_shipped_labels_follow_the_rule(labels):
    assert [(label["family"], label["kind"]) for label in labels] == [(family_of(label), kind_of(label)) for label in labels]
    assert [label["i"] for label in labels] == list(range(1911))


@pytest.mark.parametrize(
    "twins",
    [
        ["red apple", "green apple"],
        ["dog", "dog face", "guide dog"],
        ["cat", "grinning cat with smiling eyes"],
        ["cook", "man cook", "woman cook"],
        ["man: red hair", "woman: bald", "older person"],
        ["person kneeling", "woman kneeling: facing right"],
        ["one o’clock", "six-thirty"],
        ["full moon", "waning crescent moon"],
        ["red heart", "blue heart", "broken heart"],
        ["closed mailbox with raised flag", "open mailbox with lowered flag"],
        ["bus", "oncoming bus"],
        ["merman", "mermaid", "merperson"],
        ["family: man, woman, boy", "family: adult, adult, child"],
        ["globe showing Americas", "globe with meridians"],
    ],
)
def test_twins_share_a_family(labels, twins):
    by_name = {label["label"]: label["family"] for label in labels}
    assert len({by_name[name] for name in twins}) == 1


def test_different_things_do_not(labels):
    by_name = {label["label"]: label["family"] for label in labels}
    names = ["red apple", "pear", "dog", "cat", "cook", "farmer", "bus", "taxi", "guitar", "full moon", "sun", "lion", "tiger"]
    assert len({by_name[name] for name in names}) == len(names)


def test_the_split_is_that_of_the_published_figures(labels):
    families = defaultdict(list)
    for label in labels:
        if label["group"] in ASKED_ABOUT:
            families[label["family"]].append(label)
    unseen = {family for family in families if held_out(family, 0.2)}
    assert len(families) == 730
    assert sum(map(len, families.values())) == 1412
    assert len(unseen) == 159
    assert sum(len(families[family]) for family in unseen) == 295
    for group in ASKED_ABOUT:  # every kind is asked about, and none is nearly all
        share = sum(label["group"] == group for family in unseen for label in families[family]) / 295
        assert 0.05 < share < 0.3
