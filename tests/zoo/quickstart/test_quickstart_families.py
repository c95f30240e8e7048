"""What is held out is held out with its twins: the rule of families, and the labels that were made by it."""

from collections import defaultdict

import pytest

from vlmzoo.quickstart.assets import NOTO
from vlmzoo.quickstart.families import family_of, kind_of
from vlmzoo.quickstart.styles import read_labels
from vlmzoo_tasks.sheet import held_out


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


def split(labels, groups: set[str]) -> tuple[int, int, int, int]:
    """Families and concepts, and how many of each are held out."""
    families = defaultdict(list)
    for label in labels:
        if label["group"] in groups:
            families[label["family"]].append(label)
    unseen = [family for family in families if held_out(family, 0.2)]
    return len(families), sum(map(len, families.values())), len(unseen), sum(len(families[family]) for family in unseen)


def test_the_split_is_that_of_the_published_figures(labels):
    assert split(labels, {"animals-nature", "food-drink"}) == (238, 290, 46, 56)
    groups = {label["group"] for label in labels} - {"flags", "symbols", "component"}
    assert split(labels, groups) == (730, 1412, 159, 295)


def test_both_groups_are_asked_about_where_things_are_unseen(labels):
    unseen = [label["kind"] for label in labels if held_out(label["family"], 0.2)]
    assert [unseen.count(kind) for kind in ("animal", "plant", "food", "drink", "tableware")] == [23, 1, 24, 7, 1]
