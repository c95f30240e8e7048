"""`architecture: cross_attention` is a change of one line: a chain that builds no decoder blocks gets the default ones."""

import re
from pathlib import Path

import pytest
import yaml
from config_parts import catalogue

import vlmzoo
from vlmzoo.config import load_model, load_recipe
from vlmzoo_registry import ConfigError

RECIPE = """model:
  architecture: unified
  vision: {name: toy/vision}
  connector: [{name: connectors/mlp, depth: 1}]
  language: {name: toy/language}
  template: plain
stages:
  - name: align
    objective: caption
    data: [{name: captions, path: rows.jsonl, images: .}]
    train: {connector: {lr: 1.0e-3}}
    batch_size: 2
    steps: 1
"""


def chain(model) -> list[str]:
    return [choice.component.full_name for choice in model.connector]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def test_one_line_changes_the_architecture(path):
    assert chain(load_recipe(path).model) == ["connectors/mlp"]
    changed = load_recipe(path, ["model.architecture=cross_attention"]).model
    assert chain(changed) == ["connectors/mlp", "connectors/cross-attention"]
    assert changed.connector[1].config.every == 4  # the defaults of the component itself, written out
    assert load_model(path, ["model.architecture=cross_attention"]) == changed
    back = load_recipe(path, ["model.architecture=cross_attention", "model.architecture=unified"]).model
    assert chain(back) == ["connectors/mlp"]


def test_what_was_added_is_seen_in_the_plan_the_model_and_the_resolved_config(path):
    plan = vlmzoo.plan(path, overrides=["model.architecture=cross_attention"])
    assert "connectors/cross-attention" in str(plan)
    model = vlmzoo.build(path, overrides=["model.architecture=cross_attention"])
    written = model.config.model["connector"]
    assert [part["name"] for part in written] == ["connectors/mlp", "connectors/cross-attention"]
    assert written[1]["every"] == 4
    assert model.connector[1].placement == (0,)  # of two decoder layers


def test_a_chain_that_has_blocks_stays_as_it_is(path):
    for connector in (
        ["{name: connectors/cross-attention, every: 1}"],
        ["connectors/mlp", "{name: connectors/cross-attention, layers: [1]}"],
        ["connectors/cross-attention", "connectors/mlp"],  # out of place: said when the parts are put together
    ):
        model = load_recipe(path, ["model.architecture=cross_attention", f"model.connector=[{', '.join(connector)}]"]).model
        assert len(model.connector) == len(connector)


def test_a_dump_of_what_was_added_loads_back_equal(path):
    model = load_recipe(path, ["model.architecture=cross_attention"]).model
    assert load_model(yaml.safe_load(yaml.safe_dump(model.model_dump(mode="json")))) == model


def test_a_fault_in_the_chain_is_said_alone(path):
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["model.architecture=cross_attention", "model.connector=connectors/mpl"])
    (reason,) = caught.value.reasons
    assert "connectors/mpl" in reason
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, ["model.architecture=cross_attention", "model.connector=[]"])
    (reason,) = caught.value.reasons
    assert "connector" in reason


def test_without_the_component_the_architecture_is_refused_by_its_place():
    section = {
        "architecture": "cross_attention",
        "vision": "encoder",
        "connector": "test/mlp",
        "language": {"name": "decoder", "model": "some/model"},
        "template": "plain",
    }
    with pytest.raises(ConfigError) as caught:
        load_model(section, catalogue=catalogue())
    (reason,) = caught.value.reasons
    assert re.match(r"architecture.*`connectors/cross-attention`", reason), reason
