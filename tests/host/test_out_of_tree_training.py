"""A combination with a part from outside the repository: planned, trained a step, saved, and made to speak."""

import json
from pathlib import Path

import pytest
from PIL import Image

RECIPE = """
model:
  architecture: unified
  vision: {name: toy/vision}
  connector: {name: rainbow, expansion: 1.5}
  language: {name: toy/language}
  template: plain
stages:
  - name: align
    objective: caption
    data: [{name: captions, path: rows.jsonl, images: .}]
    train: {connector: {lr: 1.0e-2}}
    batch_size: 2
    steps: 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with two rows of data beside it."""
    for name in ("red", "blue"):
        Image.new("RGB", (20, 20), name).save(tmp_path / f"{name}.png")
    rows = [{"image": f"{name}.png", "caption": f"a {name} square"} for name in ("red", "blue")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.slow
def test_it_trains_in_a_combination_with_a_broken_plugin_beside_it(installed_distributions, recipe: Path) -> None:
    plan = installed_distributions.vlmzoo("plan", str(recipe), "--json")
    assert plan.returncode == 0, plan.stderr
    planned = json.loads(plan.stdout)
    connector = next(part for part in planned["parts"] if part["part"] == "connector")
    trains = next(part for part in planned["stages"][0]["parts"] if part["part"] == "connector")
    assert connector["component"] == "rainbow/rainbow"
    assert trains["trained"] == connector["parameters"] > 0

    output = recipe.parent / "run"
    trained = installed_distributions.vlmzoo("train", str(recipe), "--output", str(output))
    assert trained.returncode == 0, trained.stderr
    assert "`broken` (entry point, vlmzoo-broken 0.7.0) is broken" in trained.stderr
    manifest = json.loads((output / "align" / "checkpoint" / "manifest.json").read_text())
    assert "vlmzoo-rainbow" in json.dumps(manifest["components"])

    spoken = installed_distributions.vlmzoo(
        "generate", str(output / "align" / "checkpoint"), "--image", str(recipe.parent / "red.png"), "--max-new-tokens", "4"
    )
    assert spoken.returncode == 0, spoken.stderr

    without = installed_distributions.vlmzoo(
        "generate", str(output / "align" / "checkpoint"), "--image", str(recipe.parent / "red.png"), VLMZOO_BLOCK="rainbow"
    )
    assert without.returncode in (2, 4, 5)
    assert "rainbow" in without.stderr and "Traceback" not in without.stderr
