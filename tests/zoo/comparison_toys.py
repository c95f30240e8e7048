"""Eight pictures with captions, a recipe of toy parts that learns them, and a grid over it."""

import json
import textwrap
from pathlib import Path

from small_models import picture

WORDS = ["a", "a red cat", "two", "the dog sees seven birds", "rain", "on a hill", "why", "it is an old tree"]

RECIPE = """
model:
  architecture: unified
  vision: toy/vision
  connector: connectors/mlp
  language: toy/language
  template: plain
stages:
  - name: align
    objective: caption
    data: [{name: captions, path: rows.jsonl, images: .}]
    train: {connector: {lr: 1.0e-2}, language: {lr: 1.0e-2}}
    batch_size: 4
    steps: 2
    log_every: 1
    save_every: 5
"""

GRID = """
base: recipe.yaml
axes:
  connector:
    linear: model.connector=connectors/linear
    mlp: []
  architecture:
    unified: []
    cross:
      - model.architecture=cross_attention
      - "model.connector=[{name: connectors/cross-attention, every: 1, heads: 2, head_width: 8}]"
skip: {connector: linear, architecture: cross}
seeds: [0, 1]
budget: {supervised_tokens: 300}
evaluate:
  data: [{name: captions, path: rows.jsonl, images: .}]
  metrics: [exact, words]
  max_new_tokens: 4
"""


def write_toys(folder: Path, recipe: str = RECIPE, grid: str = GRID) -> Path:
    """The data, the recipe and the grid in a folder; returns the grid's path."""
    rows = []
    for number, words in enumerate(WORDS):
        picture(number).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": words})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(textwrap.dedent(recipe))
    (folder / "grid.yaml").write_text(textwrap.dedent(grid))
    return folder / "grid.yaml"
