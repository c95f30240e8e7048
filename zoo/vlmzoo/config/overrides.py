"""Overrides on the command line: `model.connector.depth=3` sets one value of a document, and remembers that it did.

A step that is no index, taken on a list of one entry, means that entry: so `model.connector.depth` works while there is
one connector, written as a list or not, and is refused with the indexes where there are several.
"""

from pathlib import Path

from vlmzoo.config.document import read_value
from vlmzoo.config.node import Field, Node, Place, located, quotable, scalar_fault, shown, written
from vlmzoo_registry.errors import ConfigError


def apply_override(root: Node, text: str) -> None:
    """Set the value that `text` names, in place.

    The value is YAML (`3`, `1e-3`, `[-2]`, `{name: mlp}`, a text). Mappings on the way that are not there are made; a key
    that the recipe does not know is refused later, with the override's own words as its place. Entries are not added to
    lists: give the whole list (`model.connector=[...]`).

    Raises `ConfigError` where the path leads nowhere or the value is not YAML.
    """
    place = Place(source=f"override `{quotable(text)}`", folder=Path.cwd())
    path, equals, value = text.partition("=")
    steps = path.strip().split(".")
    fault = scalar_fault(text)
    if fault is not None:
        raise _refusal(place, (), fault)
    if not equals or not all(steps):
        raise _refusal(place, (), "must be written `path.to.key=value`, for example `stages.0.batch_size=8`")
    if not value.strip():
        raise _refusal(place, tuple(steps), "has no value: write `null` to unset it")
    node = root
    field: Field = ()
    for step in steps[:-1]:
        node, field = _entered(node, field, step, place)
        child = node.child(_index(node, step))
        if child is None:
            child = Node({}, place, place)
            _put(node, step, child)
        node, field = child, (*field, _index(node, step))
    node, field = _entered(node, field, steps[-1], place)
    field = (*field, _index(node, steps[-1]))
    _put(node, steps[-1], read_value(value, place, field))


def _entered(node: Node, field: Field, step: str, place: Place) -> tuple[Node, Field]:
    """The mapping or list in which `step` is to be looked up."""
    while isinstance(node.value, list) and not step.isdecimal():
        if len(node.value) != 1:
            raise _refusal(place, field, _choose(node.value, field, step))
        node, field = node.value[0], (*field, 0)
    if isinstance(node.value, list) and int(step) >= len(node.value):
        number = len(node.value)
        has = f"has {number} {'entry' if number == 1 else 'entries'}"
        raise _refusal(place, field, f"{has}, none at index {step} (the first is 0); give the whole list to add one")
    if node.value is None:
        node.value = {}
    if not isinstance(node.value, list | dict):
        raise _refusal(place, field, f"is {shown(node.value)}, which has no `{quotable(step)}`")
    return node, field


def _choose(entries: list[Node], field: Field, step: str) -> str:
    if not entries:
        return f"is an empty list, which has no `{quotable(step)}`; give the whole list"
    ways = []
    for index, entry in enumerate(entries):
        name = entry.child("name")
        label = f" ({quotable(name.value)})" if name is not None and isinstance(name.value, str) else ""
        ways.append(f"`{written((*field, index, step))}`{label}")
    return f"has {len(entries)} entries: say which, {' or '.join(ways)}"


def _index(node: Node, step: str) -> str | int:
    return int(step) if isinstance(node.value, list) else step


def _put(node: Node, step: str, child: Node) -> None:
    if isinstance(node.value, list):
        node.value[int(step)] = child
    elif isinstance(node.value, dict):
        node.value[step] = child


def _refusal(place: Place, field: Field, message: str) -> ConfigError:
    reason = located(place, field, message)
    return ConfigError(f"{place.source} cannot be applied", [reason])
