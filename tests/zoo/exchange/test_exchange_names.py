"""Tensors are copied one to one, or not at all, and what is left over is named."""

import pytest
import torch

from vlmzoo.exchange.names import Names, fill
from vlmzoo_registry import CheckpointError

NAMES = Names((("model.tower", "vision.model"), ("model.tower.head", "vision.extra"), ("newline", "connector.0.newline")))


def test_the_longest_beginning_counts_both_ways() -> None:
    assert NAMES.to_zoo("model.tower.layers.0.weight") == "vision.model.layers.0.weight"
    assert NAMES.to_zoo("model.tower.head.bias") == "vision.extra.bias"
    assert NAMES.to_zoo("newline") == "connector.0.newline"
    assert NAMES.to_zoo("model.towers.weight") is None  # the beginning of a word is not that of a name
    assert NAMES.to_published("vision.extra.bias") == "model.tower.head.bias"
    assert NAMES.to_published("language.weight") is None


def test_leading_axes_of_one_and_types_are_no_difference() -> None:
    target = {"a": torch.zeros(3, 2)}
    fill(target, {"a": torch.ones(1, 3, 2, dtype=torch.float64)}, str, what="test")
    assert torch.equal(target["a"], torch.ones(3, 2))


def test_everything_that_does_not_match_is_said_and_nothing_is_copied() -> None:
    target = {"same": torch.zeros(2), "shape": torch.zeros(2, 3), "left": torch.zeros(4)}
    source = {"same": torch.ones(2), "shape": torch.ones(3, 2), "more": torch.ones(5), "nameless": torch.ones(1)}
    with pytest.raises(CheckpointError) as error:
        fill(target, source, lambda name: None if name == "nameless" else name, what="one into the other")
    assert error.value.message == "one into the other: the tensors do not match"
    assert error.value.reasons == (
        "`shape` [3, 2] does not fit into `shape` [2, 3]",
        "`more` [5] has no place (no `more` there)",
        "`nameless` [1] has no place",
        "`left` [4] is not filled",
    )
    assert not any(tensor.any() for tensor in target.values())
