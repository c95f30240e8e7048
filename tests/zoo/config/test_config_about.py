"""`about:`: strict like the rest of a recipe, and no part of what a run is."""

import copy
from pathlib import Path
from typing import Any

import pytest
from config_parts import RECIPE, catalogue

from vlmzoo.config import load_recipe
from vlmzoo.config.document import read_yaml
from vlmzoo.config.node import Place
from vlmzoo.training.run_folder import recipe_digest
from vlmzoo_registry import ConfigError

GOOD: Any = read_yaml(RECIPE, Place("", Path("/"), 1, 1)).plain()
ABOUT = {"title": "A model", "sources": ["https://arxiv.org/abs/2304.08485"]}


def with_about(about: Any) -> Any:
    return {**copy.deepcopy(GOOD), "about": about}


def test_what_is_said_about_a_recipe_changes_no_run() -> None:
    silent, said = load_recipe(GOOD, catalogue=catalogue()), load_recipe(with_about(ABOUT), catalogue=catalogue())
    assert said.about is not None and silent.about is None
    assert said.dump() == silent.dump()
    assert recipe_digest(said) == recipe_digest(silent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "about.sources: must be a list of at least 1 (is an empty list)"),
        ({"titel": "x"}, "about.titel: unknown key; did you mean `title`? (what a recipe is about knows: title, sources"),
        ({"title": "two\nlines"}, "about.title: must be a text of the form"),
        ({"published": {"image_tokens": 1.5}}, "about.published.image_tokens: must be a whole number or a mapping (is 1.5)"),
        (
            {"published": {"image_tokens": {"336": 1}}},
            "about.published.image_tokens: has `336`: write sizes as width x height in pixels, such as `672x1008: 2144`",
        ),
        ({"published": {"image_tokens": {}}}, "about.published.image_tokens: is empty: write sizes"),
        (
            {"published": {"image_tokens": 1, "parameters": {"vision": "0.3 billion"}}},
            "about.published.parameters.vision: must be a text of the form",
        ),
        (
            {"published": {"image_tokens": 1, "parameters": {"languag": "7B"}}},
            "about.published.parameters.languag: unknown key; did you mean `language`? (`parameters` knows: vision, connector",
        ),
    ],
)
def test_a_mistake_in_it_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(with_about({**ABOUT, **change}), catalogue=catalogue())
    assert message in str(caught.value)
