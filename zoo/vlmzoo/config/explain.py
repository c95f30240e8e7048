"""What pydantic found, in the words of the config language: which field, what is expected, what stands there.

Knows nothing about components; the loader adds file and line.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vlmzoo.config.node import Field, quotable, shown
from vlmzoo.config.section import Section
from vlmzoo_registry.suggest import did_you_mean, nearest


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: at which field (relative to what was validated), and why.

    `unknown` marks a key that is not known, and `meant` is the key it probably was; `missing` marks a key that is not there;
    `part` a value that is no component.
    """

    field: Field
    message: str
    unknown: bool = False
    missing: bool = False
    part: bool = False
    meant: str | None = None


_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "a text",
    "path_type": "a path",
    "bool_type": "`true` or `false`",
    "bool_parsing": "`true` or `false`",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "none_required": "`null`",
    "is_instance_of": "a component: its name, or a mapping with `name`",
}

_BOUNDS = {"greater_than": ("gt", "greater than"), "greater_than_equal": ("ge", "at least"), "less_than": ("lt", "less than")}
_BOUNDS |= {"less_than_equal": ("le", "at most"), "multiple_of": ("multiple_of", "a multiple of")}

_LENGTHS = {"too_short": ("min_length", "at least"), "too_long": ("max_length", "at most")}
_TEXT_LENGTHS = {"string_too_short": ("min_length", "at least"), "string_too_long": ("max_length", "at most")}

_CHOICES = {"literal_error", "enum", "union_tag_invalid"}

_SILENT = {"conflict", "default_factory_not_called"}
"""Follow from other problems, or are reported by the loader itself."""


def problems(error: ValidationError, model: type[BaseModel], data: Any, called: str) -> list[Problem]:
    """Every problem in `error`, which arose when `data` (plain) was validated as `model`, known to the reader as `called`."""
    located = [(*_field(details, data), details) for details in error.errors(include_url=False)]
    located = [entry for entry in located if not _follows(entry[2], entry[0], data)]
    found: list[Problem] = []
    for field in dict.fromkeys(field for field, _, _ in located):
        here = [details for other, _, details in located if other == field]
        union = any(root is not None for other, root, _ in located if other == field)
        deeper = any(root == field and len(other) > len(field) for other, root, _ in located)
        if union and deeper:
            continue  # one member of the union fits better than the others: what is wrong lies further inside
        found.append(_problem(field, here, model, data, called))
    return found


def _field(details: ErrorDetails, data: Any) -> tuple[Field, Field | None]:
    """The field that an error is about, and the field of the union around it, if any.

    pydantic's location holds the names of union members and functions too: they are what leads nowhere in the data.
    """
    field: list[str | int] = []
    union: Field | None = None
    node = data
    steps = details["loc"]
    for position, step in enumerate(steps):
        if isinstance(node, dict) and step in node:
            node = node[str(step)]
            field.append(step)
        elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
            node = node[step]
            field.append(step)
        elif details["type"] == "missing" and position == len(steps) - 1:
            field.append(step)
        elif step != "[key]" and union is None:
            union = tuple(field)
    if details["type"] == "union_tag_invalid":
        field.append(_tag_key(details))
    return tuple(field), union


def _problem(field: Field, found: Sequence[ErrorDetails], model: type[BaseModel], data: Any, called: str) -> Problem:
    """All that is wrong at one field (several entries where it may be one of several types), as one problem."""
    first = found[0]
    if first["type"] == "extra_forbidden" or first["loc"][-1:] == ("[key]",):
        return _unknown(field, first, model, called)
    if first["type"] == "missing":
        return missing_key(field, model)
    value = _at(data, field)
    own = [str(details["ctx"]["error"]) for details in found if details["type"] in ("value_error", "assertion_error")]
    if own:
        return Problem(field, "; ".join(dict.fromkeys(own)))
    expected = list(dict.fromkeys(_expected(details) for details in found))
    message = f"must be {' or '.join(expected)} (is {_shown(value, found)}){_hint(value, found)}"
    return Problem(field, message, part=first["type"] == "is_instance_of")


def missing_key(field: Field, model: type[BaseModel]) -> Problem:
    """The key at the end of `field` is not there, where `model` needs it; says what its declaration says."""
    text = _description(model, field)
    return Problem(field, "is missing" + (f": {text}" if text else ""), missing=True)


def unknown_key(field: Field, known: Sequence[str], whose: str) -> Problem:
    """The key at the end of `field` is none that `whose` reader knows; names the nearest."""
    key = str(field[-1])
    knows = f"{whose} knows: {', '.join(known)}" if known else f"{whose} has no options"
    return Problem(field, f"unknown key{did_you_mean(key, known)} ({knows})", unknown=True, meant=nearest(key, known))


def _unknown(field: Field, details: ErrorDetails, model: type[BaseModel], called: str) -> Problem:
    if details["type"] == "literal_error":
        return unknown_key(field, _choices(details), f"`{field[-2]}`")
    models = _chosen(_models_at(model, field[:-1]), details["loc"])
    known = list(dict.fromkeys(name for candidate in models for name in candidate.model_fields))
    whose = called if len(field) == 1 else next((m.called for m in models if issubclass(m, Section)), f"`{field[-2]}`")
    return unknown_key(field, known, whose)


def _expected(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _BOUNDS:
        limit, words = _BOUNDS[kind]
        bound = context[limit]
        return f"{words} {int(bound) if isinstance(bound, float) and bound.is_integer() else bound}"
    if kind in _LENGTHS:
        limit, words = _LENGTHS[kind]
        return f"a list of {words} {context[limit]}"
    if kind in _TEXT_LENGTHS:
        limit, words = _TEXT_LENGTHS[kind]
        return f"a text of {words} {context[limit]} characters"
    if kind in _CHOICES:
        choices = _choices(details)
        return f"`{choices[0]}`" if len(choices) == 1 else f"one of {', '.join(f'`{choice}`' for choice in choices)}"
    if kind == "string_pattern_mismatch":
        return f"a text of the form `{context['pattern']}`"
    # The rarer checks of pydantic, in its own words: "Input should be a valid date, invalid character in year".
    return details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")


def _tag_key(details: ErrorDetails) -> str:
    """The key whose value chooses a member of a union, from pydantic's `'mode'`."""
    return str(details["ctx"]["discriminator"]).strip("'")


def _choices(details: ErrorDetails) -> list[str]:
    """The allowed values of a literal, from pydantic's `'a', 'b' or 'c'`."""
    context = details.get("ctx", {})
    text = str(context.get("expected", context.get("expected_tags", "")))
    return re.findall(r"'([^']*)'", text) or re.split(r", | or ", text)


def _shown(value: Any, found: Sequence[ErrorDetails]) -> str:
    if isinstance(value, str) and value and all(details["type"] in _CHOICES for details in found):
        return f"`{quotable(value)}`"
    return shown(value)


def _hint(value: Any, found: Sequence[ErrorDetails]) -> str:
    """What the reader probably wanted to write."""
    kinds = {details["type"] for details in found}
    if isinstance(value, str) and kinds & _CHOICES:
        return did_you_mean(value, [choice for details in found for choice in _choices(details)])
    if isinstance(value, str) and "bool_type" in kinds and value.lower() in ("yes", "on", "no", "off"):
        return f"; write `{str(value.lower() in ('yes', 'on')).lower()}`"
    if "string_type" in kinds and isinstance(value, int | float):
        return "; put it in quotes to make it a text"
    if kinds & {"int_type", "int_from_float"} and isinstance(value, float) and value.is_integer():
        return f"; write `{int(value)}`"
    return ""


def _follows(details: ErrorDetails, field: Field, data: Any) -> bool:
    """Whether an error only says again what others say; pydantic counts just the entries of a list that are right."""
    if details["type"] in _SILENT:
        return True
    return details["type"] == "too_short" and len(_at(data, field)) >= details["ctx"]["min_length"]


def _at(data: Any, field: Field) -> Any:
    for step in field:
        data = data[step]
    return data


def _description(model: type[BaseModel], field: Field) -> str:
    """What the field's declaration says about it, without the final full stop; empty where it says nothing."""
    for candidate in _models_at(model, field[:-1]):
        info = candidate.model_fields.get(str(field[-1]))
        if info is not None and info.description:
            return info.description.rstrip(".")
    return ""


def _models_at(model: type[BaseModel], field: Field) -> list[type[BaseModel]]:
    """The models that the value at `field` may be: several inside a union, none in an open mapping."""
    models = [model]
    for step in field:
        infos = [candidate.model_fields[step] for candidate in models if step in candidate.model_fields]
        if infos:
            models = list(dict.fromkeys(found for info in infos for found in _models_in(info.annotation)))
    return models


def _chosen(models: list[type[BaseModel]], location: Sequence[str | int]) -> list[type[BaseModel]]:
    """Of the members of a union those that a value chose: the location of the error holds the word it chose by."""
    words = [(step,) for step in location]
    by_word = [model for model in models if any(get_args(info.annotation) in words for info in model.model_fields.values())]
    return by_word or models


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
