"""The JSON schema: it takes what the loader takes, and refuses typos; with the parts of every plugin in it."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from config_parts import RECIPE, catalogue

from vlmzoo.config import load_recipe, recipe_schema
from vlmzoo.config.document import read_yaml
from vlmzoo.config.node import Place
from vlmzoo_registry import ConfigError

GOOD: Any = read_yaml(RECIPE, Place("", Path("/"), 1, 1)).plain()
SCHEMA = recipe_schema(catalogue())

_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
_SAYS_NOTHING = {"title", "description", "default", "$defs", "$schema", "discriminator"}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits a JSON schema, of the keywords that ours uses; another keyword is a KeyError."""
    return all(keyword in _SAYS_NOTHING or _KEYWORDS[keyword](value, wanted, schema) for keyword, wanted in schema.items())


def _type(value: Any, wanted: str, schema: dict[str, Any]) -> bool:
    if wanted in ("integer", "number"):
        return type(value) is int or (type(value) is float and (wanted == "number" or value.is_integer()))
    return isinstance(value, _TYPES[wanted])


def _properties(value: Any, wanted: dict[str, Any], schema: dict[str, Any]) -> bool:
    return not isinstance(value, dict) or all(fits(value[key], wanted[key]) for key in wanted.keys() & value.keys())


def _additional(value: Any, wanted: bool | dict[str, Any], schema: dict[str, Any]) -> bool:
    if not isinstance(value, dict) or wanted is True:
        return True
    others = [child for key, child in value.items() if key not in schema.get("properties", {})]
    return not others if wanted is False else all(fits(child, wanted) for child in others)


def _ref(value: Any, wanted: str, schema: dict[str, Any]) -> bool:
    return fits(value, SCHEMA["$defs"][wanted.removeprefix("#/$defs/")])


def _number(value: Any) -> bool:
    return type(value) in (int, float)


_KEYWORDS = {
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "$ref": _ref,
    "required": lambda value, wanted, _: not isinstance(value, dict) or value.keys() >= set(wanted),
    "propertyNames": lambda value, wanted, _: not isinstance(value, dict) or all(fits(key, wanted) for key in value),
    "minProperties": lambda value, wanted, _: not isinstance(value, dict) or len(value) >= wanted,
    "items": lambda value, wanted, _: not isinstance(value, list) or all(fits(child, wanted) for child in value),
    "uniqueItems": lambda value, wanted, _: not isinstance(value, list) or all(value.count(item) == 1 for item in value),
    "minItems": lambda value, wanted, _: not isinstance(value, list) or len(value) >= wanted,
    "maxItems": lambda value, wanted, _: not isinstance(value, list) or len(value) <= wanted,
    "enum": lambda value, wanted, _: value in wanted,
    "const": lambda value, wanted, _: value == wanted,
    "anyOf": lambda value, wanted, _: any(fits(value, one) for one in wanted),
    "oneOf": lambda value, wanted, _: sum(fits(value, one) for one in wanted) == 1,
    "format": lambda value, wanted, _: wanted == "path",
    "pattern": lambda value, wanted, _: not isinstance(value, str) or re.search(wanted, value) is not None,
    "minLength": lambda value, wanted, _: not isinstance(value, str) or len(value) >= wanted,
    "maxLength": lambda value, wanted, _: not isinstance(value, str) or len(value) <= wanted,
    "minimum": lambda value, wanted, _: not _number(value) or value >= wanted,
    "exclusiveMinimum": lambda value, wanted, _: not _number(value) or value > wanted,
    "exclusiveMaximum": lambda value, wanted, _: not _number(value) or value < wanted,
}


def loads(data: Any) -> bool:
    try:
        load_recipe(data, catalogue=catalogue())
    except ConfigError:
        return False
    return True


def changed(path: str, value: Any = None) -> Any:
    """The good recipe with one value changed, or taken out."""
    data = json.loads(json.dumps(GOOD))
    *steps, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    node = data
    for step in steps:
        node = node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return data


ACCEPTED = [
    GOOD,
    load_recipe(GOOD, catalogue=catalogue()).dump(),
    changed("model.connector", "test/mlp"),
    changed("model.connector", {"name": "shuffle", "factor": 2, "sizes": [1, 2]}),
    changed("model.connector", ["other/mlp", {"name": "shuffle", "factor": 2}]),
    changed("model.vision", [{"name": "encoder", "patches": {"size": 2}}]),
    changed("model.vision", "encoder"),
    changed("stages.0.objective", {"name": "test/caption"}),
    changed("stages.0.data.0.more", ["a", "b"]),
    changed("seed"),
    changed("stages.0.train.connector", {"lr": 1e-3, "mode": "last", "layers": 2}),
    changed("stages.0.train.connector", {"lr": 1e-3, "mode": "lora", "rank": 8, "targets": ["q"]}),
    changed("stages.0.train.connector", {"lr": 1e-3, "mode": "bias"}),
]

REFUSED = [
    changed("stages.0.train.connector", {"lr": 1e-3, "layers": 2}),
    changed("stages.0.train.connector", {"lr": 1e-3, "mode": "last"}),
    changed("stages.0.train.connector", {"lr": 1e-3, "mode": "lora", "rank": 8, "targets": []}),
    changed("stages.0.train.connector", {"lr": 1e-3, "mode": "norm"}),
    changed("sed", 1),
    changed("model.visoin", "encoder"),
    changed("model.vision"),
    changed("model.vision.layer", [1]),
    changed("model.vision.name", "test/encodr"),
    changed("model.vision.patches", {"sise": 2}),
    changed("model.vision", ["encoder", "encodr"]),
    changed("model.vision", []),
    changed("model.layout", "tiles"),
    changed("model.connector", "mlp"),  # of two plugins
    changed("model.connector", "shuffle"),  # needs options
    changed("model.connector", []),
    changed("model.connector.0.dept", 2),
    changed("model.connector.0.depth", "2"),
    changed("model.connector.0.depth", 0),
    changed("model.connector.0.name"),
    changed("model.architecture", "blended"),
    changed("model.template", "caption"),
    changed("stages.0.data.0.path"),
    changed("stages.0.data.0.images", 3),
    changed("stages.0.data", []),
    changed("stages.0.train", {}),
    changed("stages.0.train.visoin", {"lr": 1.0}),
    changed("stages.0.train.connector.mode", "lora"),
    changed("stages.0.train.connector.lr"),
    changed("stages.0.train.connector.lr", 0),
    changed("stages.0.steps"),
    changed("stages.0.epochs", 2),
    changed("stages.0.schedule", "cosin"),
    changed("stages.0.name", "../x"),
    changed("stages", GOOD["stages"] * 2),
    changed("stages", []),
]


@pytest.mark.parametrize("data", ACCEPTED)
def test_the_schema_takes_what_the_loader_takes(data):
    assert loads(data)
    assert fits(data, SCHEMA)


@pytest.mark.parametrize("data", REFUSED)
def test_the_schema_refuses_what_the_loader_refuses(data):
    assert not loads(data)
    assert not fits(data, SCHEMA)


@pytest.mark.skipif(importlib.util.find_spec("jsonschema") is None, reason="jsonschema is not installed; `fits` stands in")
def test_jsonschema_says_the_same():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)
    validator = Draft202012Validator(SCHEMA)
    assert all(validator.is_valid(data) for data in ACCEPTED)
    assert not any(validator.is_valid(data) for data in REFUSED)


def test_every_component_is_described_and_a_broken_one_says_why():
    connectors = {entry["title"]: entry for entry in SCHEMA["$defs"]["connector"]["oneOf"]}
    assert connectors["test/mlp"]["description"] == "A perceptron."
    assert connectors["test/mlp"]["properties"]["name"]["enum"] == ["test/mlp"]
    assert connectors["test/shuffle"]["properties"]["name"]["enum"] == ["test/shuffle", "shuffle"]
    assert connectors["test/heavy"]["additionalProperties"] is True
    assert "(Its options are not known: connector `test/heavy`" in connectors["test/heavy"]["description"]
    assert connectors["name"]["enum"] == [*("other/mlp", "test/heavy", "heavy", "test/mlp", "test/rude", "rude")]
    assert "heavy" in connectors["name"]["enum"]  # whether it needs options is not known


def test_the_command_writes_the_schema_of_what_is_installed(tmp_path, capsys):
    from vlmzoo.cli.schema import schema

    schema()
    printed = json.loads(capsys.readouterr().out)
    schema(tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text()) == printed
    titles = [entry["title"] for entry in printed["$defs"]["connector"]["oneOf"]]
    assert "connectors/mlp" in titles
    assert printed["title"] == "vlmzoo recipe"
