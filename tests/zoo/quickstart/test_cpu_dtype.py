"""The quickstart's language model is in the type that the machine multiplies faster, and a run that has begun keeps its own."""

import json
from pathlib import Path

import pytest
import torch

from vlmzoo.quickstart.cpu_dtype import fastest_dtype, kept_dtype, matmul_seconds


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.1, "bfloat16"), (1.0, "bfloat16"), (1.1, "float32"), (10.0, "float32")])
def test_the_faster_type_is_chosen(bfloat16: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert fastest_dtype({torch.bfloat16: bfloat16, torch.float32: 1.0}.__getitem__) == chosen


def test_an_accelerator_is_not_measured_by_its_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert fastest_dtype({torch.bfloat16: 10.0, torch.float32: 1.0}.__getitem__) == "bfloat16"


def test_a_product_is_measured() -> None:
    assert 0 < matmul_seconds(torch.float32) < 60


@pytest.mark.parametrize(
    ("language", "kept"),
    [({"name": "transformers/causal-lm", "dtype": "bfloat16"}, "bfloat16"), ({"name": "toy/language"}, None), (None, None)],
)
def test_a_run_that_has_begun_keeps_its_type(language: dict[str, str] | None, kept: str | None, tmp_path: Path) -> None:
    if language is not None:
        (tmp_path / "recipe.json").write_text(json.dumps({"model": {"language": language}, "stages": []}))
    assert kept_dtype(tmp_path) == kept


def test_a_recipe_that_cannot_be_read_is_left_to_the_training_to_tell(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"model": {')
    assert kept_dtype(tmp_path) is None
