"""What the README shows runs: its Python, its recipe's one-line swaps, and the parts it lists are there."""

import re
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.quickstart.run import RECIPE

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "vlmzoo.build(" in code)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.chdir(folder)
        first, rest = block.split("out = model", 1)
        names: dict[str, object] = {"image": Image.new("RGB", (40, 40), "red")}
        exec(first, names)
        batch = names["batch"]
        image_id = names["model"].config.image_token_id
        names["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == image_id, -100)
        exec("out = model" + rest, names)
        assert names["out"].loss.item() > 0
        assert names["ids"].shape[1] > batch["input_ids"].shape[1]
        assert isinstance(names["model"].processor.decode(names["ids"])[0], str)


def test_the_swaps_are_understood() -> None:
    swaps = re.findall(r"vlmzoo quickstart --output \S+ '([^']+)'", README)
    assert len(swaps) == 3
    models = [load_recipe(RECIPE, [swap]).model for swap in swaps]
    assert [model.connector[0].component.full_name for model in models[:2]] == ["connectors/linear", "connectors/resampler"]
    assert [model.architecture for model in models] == ["unified", "unified", "cross_attention"]


def test_the_parts_it_lists_are_there() -> None:
    section = README.split("| kind | parts |")[1].split("\n\n")[0]
    listed = {name.split("/")[-1] for name in re.findall(r"`([a-z_/-]+)`", section)}
    kinds = ("vision_encoder", "connector", "language_model")
    assert listed == {component.spec.name for kind in kinds for component in vlmzoo.components(kind)}
