"""Where in a recipe the parts stand, of which kind each is, and how the short ways of writing them are spelt out.

A part is a mapping `{name: component, **options}`; short ways are a bare name, and no list around the only connector.
"""

from typing import Any

from vlmzoo.config.node import Node

MODEL_PARTS = {
    "vision": "vision_encoder",
    "connector": "connector",
    "language": "language_model",
    "layout": "layout",
    "template": "template",
}
"""The kind of component under each key of `model:`; `vision` and `connector` are lists of them."""

STAGE_PARTS = {"objective": "objective", "data": "dataset", "template": "template"}
"""The kind of component under each key of a stage; `data` is a list of them."""

EVALUATE_PARTS = {"data": "dataset", "metrics": "metric"}
"""The kind of component under each key of a grid's `evaluate:`; both are lists of them."""

RULES = "rules"
"""The key of a dataset under which its rules stand, a list; the options of the dataset itself stand beside it."""


def spell_out_recipe(node: Node) -> None:
    """Spell out the short forms of a recipe in place; what is no recipe is left as it is."""
    model = node.child("model")
    if model is not None:
        spell_out_model(model)
    stages = node.child("stages")
    for _, stage in stages.items() if stages is not None else ():
        data = stage.child("data")
        for part in (stage.child("objective"), stage.child("template")):
            if part is not None:
                _name(part)
        if data is not None and isinstance(data.value, list):
            for dataset in data.value:
                _spell_out_dataset(dataset)


def spell_out_model(node: Node) -> None:
    """Spell out the short forms of a `model:` section in place; what is none is left as it is."""
    vision, connector = node.child("vision"), node.child("connector")
    if vision is not None and isinstance(vision.value, list) and len(vision.value) == 1:
        vision.value = vision.value[0].value
    _list_of_one(connector, str | dict)
    for chain in (vision, connector):
        for _, link in chain.items() if chain is not None and isinstance(chain.value, list) else ():
            _name(link)
    for part in (vision, *(node.child(key) for key in ("language", "layout", "template"))):
        if part is not None:
            _name(part)


def spell_out_grid(node: Node) -> None:
    """Spell out the short forms of a grid in place: a lone entry where a list may stand, a bare name for a component."""
    axes, evaluate = node.child("axes"), node.child("evaluate")
    for _, axis in axes.items() if axes is not None else ():
        for _, changes in axis.items():
            _list_of_one(changes, str)
    for key in ("overrides", "skip"):
        _list_of_one(node.child(key), str | dict)
    for key in ("data", "held_out", "metrics"):
        entries = None if evaluate is None else evaluate.child(key)
        _list_of_one(entries, str | dict)
        for _, entry in entries.items() if entries is not None and key != "held_out" else ():
            if key == "data":
                _spell_out_dataset(entry)
            else:
                _name(entry)


def _spell_out_dataset(node: Node) -> None:
    """A dataset by its bare name, and its rules: one alone without a list, each by its bare name."""
    _name(node)
    rules = node.child(RULES)
    _list_of_one(rules, str | dict)
    for _, rule in rules.items() if rules is not None else ():
        _name(rule)


def _list_of_one(node: Node | None, kind: Any) -> None:
    if node is not None and isinstance(node.value, kind):
        node.value = [Node(node.value, node.place, node.place)]


def _name(part: Node) -> None:
    """`mlp` becomes `{name: mlp}`."""
    if isinstance(part.value, str):
        part.value = {"name": Node(part.value, part.place, part.place)}
