"""What the README shows runs: its Python, its recipe's one-line swaps, and the parts it lists are there."""

import json
import re
import tempfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo.quickstart.run import RECIPE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


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


def test_the_exchange_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "from_transformers" in code)
    text = {"vocab_size": 99, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=32, patch_size=8),
        text_config=LlamaConfig(**text, num_key_value_heads=2),
        image_token_index=98,
        vision_feature_layer=-2,
    )
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.chdir(folder)
        names: dict[str, object] = {"vlmzoo": vlmzoo, "published": LlavaForConditionalGeneration(config)}
        exec(block, names)
        assert names["mixed"].image_shape.count == 8
        loaded = LlavaForConditionalGeneration.from_pretrained("for-transformers")
    ours, theirs = names["published"].state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_recipes_it_names_are_there() -> None:
    named = re.findall(r"`vlmzoo plan ([a-z0-9.-]+)`", README)
    assert named and set(named) - {"recipe.yaml"} <= set(shipped_recipes())


def test_the_swaps_are_understood() -> None:
    swaps = re.findall(r"vlmzoo quickstart --output \S+ '([^']+)'", README)
    assert len(swaps) == 3
    models = [load_recipe(RECIPE, [swap]).model for swap in swaps]
    assert [model.connector[0].component.full_name for model in models[:2]] == ["connectors/linear", "connectors/resampler"]
    assert [model.architecture for model in models] == ["unified", "unified", "cross_attention"]


def test_the_parts_it_lists_are_there() -> None:
    section = README.split("| kind | parts |")[1].split("\n\n")[0]
    listed = {name.split("/")[-1] for name in re.findall(r"`([a-z0-9_/-]+)`", section)}
    kinds = ("vision_encoder", "connector", "language_model", "layout")
    assert listed == {component.spec.name for kind in kinds for component in vlmzoo.components(kind)}


def test_the_numbers_of_families_are_those_of_the_surveys() -> None:
    encoders, decoders = "docs/reference/encoder-families.md", "benchmarks/results/language_models.json"
    page = (ROOT / encoders).read_text()
    proved = {
        library: len(re.findall(rf"^\| {library} \|", page, re.MULTILINE))
        for library in ("timm/encoder", "open_clip/encoder", "transformers/vision")
    }
    each = "{}, {} and {}".format(*proved.values())
    assert f"`timm/encoder`, `open_clip/encoder`, `transformers/vision` ([{each} families]({encoders})" in README
    asked = [row for row in json.loads((ROOT / decoders).read_text())["rows"] if not row["skipped"]]
    passed = [row for row in asked if set(row["checks"].values()) == {"passed"}]
    assert f"[{len(passed)} of {len(asked)}]({decoders})" in README


def test_the_figures_of_batches_are_those_of_the_benchmark() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "data.json").read_text())
    total = {row["name"]: row["total"] for row in found["orders"]}
    named = [name for name in total if re.match(r"random|LLaVA|transformers|`pack`, `max_tokens: 8192`", name)]
    shown = [f"{total[name]:.3f}" if "pack" in name else f"{total[name]:.2f}" for name in named]
    row = re.search(r"\| random, padded \|.*\n.*\n\| (.*) \|\n", README)
    assert row is not None
    assert [figure.strip("*") for figure in row[1].split(" | ")] == [figure.removeprefix("0") for figure in shown]
    seconds = {name: step["seconds"] for name, step in found["steps"].items()}
    faster = [f"{seconds['padded'] / seconds[way]:.2f}x (`{way}`)" for way in ("flatten", "pack")]
    assert all(figure in README for figure in faster)
