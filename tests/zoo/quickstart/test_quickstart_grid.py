"""The shipped grid is a grid over the quickstart's recipe as it is today."""

from pathlib import Path

import pytest

from vlmzoo.comparison.cells import combinations_of
from vlmzoo.config import load_grid
from vlmzoo.quickstart import assets
from vlmzoo.quickstart.run import RECIPE


@pytest.mark.quickstart
def test_every_cell_of_the_shipped_grid_can_be_trained(parts, monkeypatch):
    monkeypatch.setattr(assets, "prepare", lambda say: parts)
    grid, root = load_grid(Path(RECIPE).parent / "grid.yaml")
    found = combinations_of(grid, root, lambda line: None)
    assert [combination.name for combination in found] == ["linear", "mlp", "resampler", "cross_attention"]
    assert {combination.plan.image_tokens for combination in found} == {4}
    assert [combination.plan.architecture for combination in found] == ["unified"] * 3 + ["cross_attention"]
    for combination in found:
        # One question about each of the styles that are trained on, about concepts that are not.
        assert [choice.config.split for choice in combination.questions] == ["heldout"] * 2
        assert len({choice.config.sheet for choice in combination.questions}) == 2
        trained = combination.recipe.stages[-1].data
        assert {choice.config.split for choice in trained} == {"train"}
        assert {choice.config.heldout for choice in combination.questions} == {choice.config.heldout for choice in trained}
