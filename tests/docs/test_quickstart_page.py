"""What the page on the quickstart says of its recipe is so."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import vlmzoo.quickstart

PAGE = " ".join((Path(__file__).parents[2] / "docs/quickstart.md").read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """The shipped recipe."""
    return yaml.safe_load((Path(vlmzoo.quickstart.__file__).parent / "recipe.yaml").read_text(encoding="utf-8"))


def test_the_parts_and_what_trains(recipe: dict[str, Any]) -> None:
    assert "EfficientNet-Lite0 and SmolLM2-135M-Instruct" in PAGE
    assert recipe["model"]["vision"]["model"] == "tf_efficientnet_lite0"
    assert recipe["model"]["language"]["model"] == "smollm2"
    (stage,) = recipe["stages"]
    assert "the connector and the last two blocks of the language model train" in PAGE
    assert set(stage["train"]) == {"connector", "language"}
    assert (stage["train"]["language"]["mode"], stage["train"]["language"]["layers"]) == ("last", 2)


def test_the_data_and_what_is_held_out(recipe: dict[str, Any]) -> None:
    data = recipe["stages"][0]["data"]
    assert "two sets of emoji drawings" in PAGE
    assert len({rows["sheet"] for rows in data}) == 2
    asked = {rows["prompt"] for rows in data}
    assert len(asked) == 2 and all(f'"{question}"' in PAGE for question in asked)
    assert "a fifth of the *families* of concepts" in PAGE
    assert all((rows["concept"], rows["heldout"], rows["split"]) == ("family", 0.2, "train") for rows in data)
