"""A document as a tree in which every value and every key remembers where it was written.

So that whatever is found wrong later, by whichever check, can name file, line, column and field.
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Field: TypeAlias = tuple[str | int, ...]
"""The keys and indexes that lead to a value: `("stages", 0, "batch_size")`."""

Scalar: TypeAlias = str | int | float | bool | None
Plain: TypeAlias = "Scalar | list[Plain] | dict[str, Plain]"


_WORD = re.compile(r"[\w-]{1,60}")


@dataclass(frozen=True)
class Place:
    """Where something was written: a file with line and column (from 1), an override, or a Python mapping (no `source`).

    `folder` is what relative paths written there start from.
    """

    source: str
    folder: Path
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass
class Node:
    """One value, where it was written, and where its key was (for an entry of a list: where the entry begins)."""

    value: "Scalar | list[Node] | dict[str, Node]"
    place: Place
    key: Place

    def plain(self) -> Plain:
        """The value as plain data."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, step: str | int) -> "Node | None":
        """The value under this key or index, if there is one."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def nearest(self, field: Field) -> "tuple[Node, bool]":
        """The node at `field`, or the last one on the way that exists; and whether it is the one asked for."""
        node = self
        for step in field:
            child = node.child(step)
            if child is None:
                return node, False
            node = child
        return node, True

    def items(self) -> "Iterator[tuple[str | int, Node]]":
        """The children with their keys or indexes."""
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from enumerate(self.value)


def quotable(text: str) -> str:
    """A text as it can stand within a one-line message: at most 60 characters, and none that cannot be printed."""
    short = text if len(text) <= 60 else text[:57] + "..."
    return short if short.isprintable() else json.dumps(short)[1:-1]


def written(field: Field) -> str:
    """A field as people write it, `stages.0.batch_size`; a key that is no plain word in quotes."""
    return ".".join(_step(step) for step in field) or "(top level)"


def _step(step: str | int) -> str:
    if isinstance(step, int) or _WORD.fullmatch(step):
        return str(step)
    return f'"{quotable(step)}"'


def located(place: Place, field: Field, message: str) -> str:
    """One reason: `recipe.yaml:12:7: model.connector.0.dept: unknown key`."""
    where = f"{place}: " if place.source else ""
    return f"{where}{written(field)}: {message}"


def shown(value: object) -> str:
    """A value as an error message shows it: what it is, in the words of the config language, and short."""
    if isinstance(value, str):
        return f"the text `{quotable(value)}`" if value else "an empty text"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None:
        return "empty"
    if isinstance(value, list | tuple):
        return "an empty list" if not value else f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a mapping"
    return quotable(str(value))


def scalar_fault(value: Scalar) -> str | None:
    """Why this value can stand nowhere in a config, or None."""
    if isinstance(value, float) and math.isnan(value):
        return "must be a number (is NaN, which is none)"
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return "is too large a number"
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "contains half of a surrogate pair, which is not a character"
    return None
