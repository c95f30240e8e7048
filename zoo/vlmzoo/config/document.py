"""Files and mappings read into a tree of nodes: YAML 1.2's core schema or JSON, safely, with the place of everything.

PyYAML alone speaks YAML 1.1 (`1e-3` is a text, `no` is false, the last duplicate wins); here only its events are used.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from vlmzoo.config.node import Field, Node, Place, Scalar, located, quotable, scalar_fault, shown
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo_registry.errors import ConfigError
from vlmzoo_registry.suggest import did_you_mean

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_VALUES = 10_000

_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NOT_A_NUMBER = re.compile(r"\.(nan|NaN|NAN)")
_MANY_DIGITS = 400  # no whole number a config can use has more, and Python refuses to read much longer ones

_YAML_PROBLEMS = (
    (r"found character '\\t' that cannot start any token", "a tab where YAML wants spaces: indent with spaces"),
    (
        r"mapping values are not allowed here",
        "a `:` where no key can stand: check the indentation, or put the text in quotes if the `:` belongs to it",
    ),
    (r"could not find expected ':'", "a key without its `:`"),
    (r"expected ',' or '\]'.*", "a list that began with `[` does not go on with `,` and does not end with `]`"),
    (r"expected ',' or '\}'.*", "a mapping that began with `{` does not go on with `,` and does not end with `}`"),
    (r"expected <block end>, but found .*", "does not stand in line with what it belongs to: check the indentation"),
    (r"found unexpected end of stream", "a quoted text that is never closed"),
    (r"found character '@' that cannot start any token", "a text that begins with `@` must be put in quotes"),
    (r"found character '`' that cannot start any token", "a text that begins with a backtick must be put in quotes"),
    (r"found character '%' that cannot start any token", "a text that begins with `%` must be put in quotes"),
)


def read_document(path: str | PathLike[str]) -> Node:
    """The file as a tree: JSON if its name ends in `.json`, else YAML.

    The bare name of a shipped recipe (`vit-gpt2-coco`), where no file is called so, is that recipe: paths in it start from
    the working directory, where the reader's data is.

    Raises `ConfigError` naming file, line and column where it cannot be read: not there, over 1 MB, not UTF-8, not well
    formed, deeper than 32 levels, a duplicate key, an anchor, an alias, a tag, NaN. (Infinity is left to the options: the
    configurations of some architectures hold it.)
    """
    path = Path(path)
    folder = path.absolute().parent
    if str(path) in (shipped := shipped_recipes()) and not path.exists():
        path, folder = shipped[str(path)], Path.cwd()
    place = Place(source=str(path), folder=folder, line=1, column=1)
    text = _decode(_read(path), place)
    return read_json(text, place) if path.suffix.lower() == ".json" else read_yaml(text, place)


def read_yaml(text: str, start: Place) -> Node:
    """A YAML text as a tree; `start` is the place of its first character.

    Raises `ConfigError` as `read_document` does.
    """
    reader = _YamlReader(start, ())
    return _finished(reader, reader.read(text))


def read_value(text: str, place: Place, field: Field) -> Node:
    """The YAML of one value, written at `place` for `field`.

    Raises `ConfigError` as `read_document` does, and where ` #` would silently cut the value short.
    """
    reader = _YamlReader(place, field)
    node = reader.read(text)
    if text[reader.end :].strip():
        reader.refuse(
            place, field, f"ends before `{quotable(text[reader.end :].strip())}`, a comment in YAML: put the value in quotes"
        )
    return _finished(reader, node)


def read_json(text: str, start: Place) -> Node:
    """A JSON text as a tree; `start` is the place of its first character.

    Raises `ConfigError` as `read_document` does.
    """
    reader = _JsonReader(text, start)
    return _finished(reader, reader.read())


def read_mapping(data: Mapping[str, object], folder: Path | None = None) -> Node:
    """A Python mapping as a tree: mappings, lists, tuples, texts, numbers, booleans, None and `pathlib` paths.

    Raises `ConfigError` naming the field where there is anything else.
    """
    reader = _MappingReader(Place(source="", folder=folder or Path.cwd()))
    return _finished(reader, reader.node(data, ()))


def cannot_be_used(source: str, reasons: list[str]) -> str:
    """The first line of an error about a document."""
    return f"{source or 'the config'} cannot be used" + (f", for {len(reasons)} reasons" if len(reasons) > 1 else "")


def _finished(reader: "_Reader", node: Node) -> Node:
    if reader.reasons:
        raise ConfigError(cannot_be_used(reader.start.source, reader.reasons), reader.reasons)
    return node


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = ""
        with suppress(OSError):
            beside = {entry.name for entry in path.absolute().parent.iterdir()}
            near = did_you_mean(path.name, beside | set(shipped_recipes()))
        raise ConfigError(f"{path}: no such file{near}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than a config may be ({MAX_BYTES} bytes): is it a config at all?")
    return data


def _decode(data: bytes, start: Place) -> str:
    def refuse(message: str, before: bytes = b"") -> ConfigError:
        text = before.decode("utf-8", errors="replace")
        line, column = text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1
        place = Place(start.source, start.folder, line, column)
        return ConfigError(cannot_be_used(start.source, [message]), [located(place, (), message)])

    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or (data[:2].count(0) == 1 and data[2:4].count(0) == 1):
        raise refuse("is written in UTF-16: save it as UTF-8")
    if data.startswith(b"\xef\xbb\xbf"):
        raise refuse("begins with a byte order mark: save it as UTF-8 without one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = data[error.start]
        raise refuse(f"is not UTF-8 (byte 0x{bad:02x} here): save it as UTF-8", data[: error.start]) from None


class _Reader:
    """What the three readers share: places, reasons, and the limits."""

    def __init__(self, start: Place) -> None:
        self.start = start
        self.reasons: list[str] = []
        self.values = 0

    def refuse(self, place: Place, field: Field, message: str) -> None:
        """Note a reason and go on, so that all are found."""
        self.reasons.append(located(place, field, message))

    def stop(self, place: Place, field: Field, message: str) -> ConfigError:
        """The error to raise where nothing sensible can follow; the reasons found so far are in it."""
        reasons = [*self.reasons, located(place, field, message)]
        return ConfigError(cannot_be_used(self.start.source, reasons), reasons)

    def enter(self, place: Place, field: Field) -> None:
        """Count one more value at this depth, and stop where there are too many or it lies too deep."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.stop(place, field, f"is the {MAX_VALUES + 1}th value: a config may hold {MAX_VALUES}")
        if len(field) > MAX_DEPTH:
            raise self.stop(place, field[:3], f"holds values nested deeper than {MAX_DEPTH} levels")

    def scalar(self, value: Scalar, place: Place, field: Field) -> Scalar:
        """The value, refused where it can stand nowhere in a config."""
        fault = scalar_fault(value)
        if fault is not None:
            self.refuse(place, field, fault)
        return value

    def add(self, members: dict[str, Node], name: str, node: Node, field: Field) -> None:
        """Put a member under its key; a key that is there already is refused, and the first one kept."""
        fault = scalar_fault(name)
        if fault is not None or not name:
            self.refuse(node.key, field, f"a key {fault or 'must not be empty'}")
        elif name in members:
            first = members[name].key
            at = "" if first.line is None else f": first at line {first.line}"
            self.refuse(node.key, (*field, name), f"the key stands here a second time{at}; remove one")
        else:
            members[name] = node


class _YamlReader(_Reader):
    def __init__(self, start: Place, base: Field) -> None:
        super().__init__(start)
        self.base = base
        self.field = base
        self.end = 0

    def read(self, text: str) -> Node:
        """The only document in this text; `end` is then the position behind its last value."""
        try:
            return self._document(self._followed(yaml.parse(text, Loader=yaml.SafeLoader)))
        except yaml.reader.ReaderError as error:
            before = text[: error.position]
            place = self._at(before.count("\n"), len(before) - (before.rfind("\n") + 1))
            problem = f"contains the control character U+{ord(text[error.position]):04X}"
            raise self.stop(place, self.base, problem) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = _in_our_words(error.problem or error.context or "not well formed")
            raise self.stop(self._place(mark), self.field, problem) from None
        except RecursionError:
            raise self.stop(self.start, self.field, "is nested too deeply") from None

    def _document(self, events: Iterator[yaml.Event]) -> Node:
        next(events)  # the stream starts
        if not isinstance(next(events), yaml.DocumentStartEvent):
            raise self.stop(self.start, self.base, "is empty")
        node = self._node(events, next(events), None, self.base)
        end = self.end
        next(events)  # the document ends
        after = next(events)
        if isinstance(after, yaml.DocumentStartEvent):
            raise self.stop(self._place(after.start_mark), self.base, "begins a second document: a config is one document")
        self.end = end
        return node

    def _followed(self, events: Iterator[yaml.Event]) -> Iterator[yaml.Event]:
        for event in events:
            mark: Any = event.end_mark
            self.end = mark.index
            yield event

    def _place(self, mark: Any) -> Place:
        return self.start if mark is None else self._at(mark.line, mark.column)

    def _at(self, line: int, column: int) -> Place:
        """The place at this line and column, both from 0; an override is one place."""
        if self.start.line is None:
            return self.start
        return Place(self.start.source, self.start.folder, self.start.line + line, column + 1)

    def _node(self, events: Iterator[yaml.Event], event: yaml.Event, key: Place | None, field: Field) -> Node:
        self.field = field
        place = self._place(event.start_mark)
        self.enter(place, field)
        self._refuse_extras(event, place, field)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._sequence(events, field), place, key or place)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._mapping(events, field), place, key or place)
        if isinstance(event, yaml.ScalarEvent):
            return Node(self._scalar(event, place, field), place, key or place)
        return Node(None, place, key or place)  # an alias, refused above

    def _refuse_extras(self, event: yaml.Event, place: Place, field: Field) -> None:
        anchor = event.anchor if isinstance(event, yaml.NodeEvent) else None
        if isinstance(event, yaml.AliasEvent):
            self.refuse(place, field, f"`*{quotable(anchor or '')}` is an alias: write the value out")
        elif anchor is not None:
            self.refuse(place, field, f"`&{quotable(anchor)}` is an anchor: write values out where they belong")
        tag = getattr(event, "tag", None)
        if tag is not None:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            self.refuse(place, field, f"`{quotable(short)}` is a tag: a config holds plain values only")

    def _sequence(self, events: Iterator[yaml.Event], field: Field) -> list[Node]:
        entries: list[Node] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            entries.append(self._node(events, event, None, (*field, len(entries))))
        return entries

    def _mapping(self, events: Iterator[yaml.Event], field: Field) -> dict[str, Node]:
        members: dict[str, Node] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._place(event.start_mark)
            if isinstance(event, yaml.ScalarEvent):
                self._refuse_extras(event, key, field)
                name = event.value
            else:
                self.refuse(key, field, "a key must be a text")
                self._node(events, event, None, (*field, "?"))
                name = "?"
            self.field = (*field, name)
            self.add(members, name, self._node(events, next(events), key, (*field, name)), field)
        return members

    def _scalar(self, event: yaml.ScalarEvent, place: Place, field: Field) -> Scalar:
        plain = event.implicit[0] and not event.style
        if plain and len(event.value) > _MANY_DIGITS and _FLOAT.fullmatch(event.value):
            self.refuse(place, field, f"is a number of {len(event.value)} digits")
            return None
        return self.scalar(_core(event.value) if plain else event.value, place, field)


def _core(text: str) -> Scalar:
    """A plain scalar under YAML 1.2's core schema (section 10.3.2)."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text) or _NOT_A_NUMBER.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text


def _in_our_words(problem: str) -> str:
    for pattern, words in _YAML_PROBLEMS:
        if re.fullmatch(pattern, problem):
            return words
    return f"is not well-formed YAML: {problem}"


class _JsonReader(_Reader):
    """Objects and arrays by hand, for their places; texts, numbers and literals by the standard library."""

    _SPACE = re.compile(r"[ \t\n\r]*")
    _WORD = re.compile(r'[^\s,:{}\[\]"]*')

    def __init__(self, text: str, start: Place) -> None:
        super().__init__(start)
        self.text = text
        self.decoder = json.JSONDecoder(parse_int=self._whole, parse_constant=self._constant)
        self.breaks = [match.start() for match in re.finditer("\n", text)]

    def read(self) -> Node:
        """The only value in this text."""
        begin = self._skip(0)
        if begin == len(self.text):
            raise self.stop(self.start, (), "is empty")
        node, end = self._node(begin, None, ())
        end = self._skip(end)
        if end != len(self.text):
            raise self.stop(self._place(end), (), "goes on after the end of the JSON value")
        return node

    @staticmethod
    def _whole(digits: str) -> int:
        # Longer numbers are refused as too large in any case; reading them takes quadratic time.
        return int(digits[:_MANY_DIGITS])

    @staticmethod
    def _constant(name: str) -> float:
        return float(name)

    def _place(self, position: int) -> Place:
        line = bisect_left(self.breaks, position)
        before = self.breaks[line - 1] if line else -1
        return Place(self.start.source, self.start.folder, line + 1, position - before)

    def _skip(self, position: int) -> int:
        match = self._SPACE.match(self.text, position)
        return match.end() if match else position

    def _expect(self, wanted: str, position: int, field: Field) -> int:
        """The position after `wanted`, which must stand here."""
        if not self.text.startswith(wanted, position):
            raise self.stop(self._place(position), field, f"expected `{wanted}` here, {self._found(position)}")
        return position + len(wanted)

    def _found(self, position: int) -> str:
        return f"found `{quotable(self.text[position])}`" if position < len(self.text) else "but the file ends"

    def _node(self, position: int, key: Place | None, field: Field) -> tuple[Node, int]:
        place = self._place(position)
        self.enter(place, field)
        value: Scalar | list[Node] | dict[str, Node]
        if self.text.startswith("{", position):
            value, end = self._object(position + 1, field)
        elif self.text.startswith("[", position):
            value, end = self._array(position + 1, field)
        else:
            value, end = self._scalar(position, field)
            value = self.scalar(value, place, field)
        return Node(value, place, key or place), end

    def _scalar(self, position: int, field: Field) -> tuple[Scalar, int]:
        try:
            value, end = self.decoder.raw_decode(self.text, position)
        except json.JSONDecodeError as error:
            word = self._WORD.match(self.text, position)
            what = f"`{quotable(word.group())}`" if word and word.group() else self._found(position)
            message = (
                f"is not JSON: {error.msg.lower()}" if self.text.startswith('"', position) else f"is not a JSON value: {what}"
            )
            raise self.stop(self._place(error.pos), field, message) from None
        return value, end

    def _array(self, position: int, field: Field) -> tuple[list[Node], int]:
        entries: list[Node] = []
        position = self._skip(position)
        if self.text.startswith("]", position):
            return entries, position + 1
        while True:
            node, position = self._node(self._skip(position), None, (*field, len(entries)))
            entries.append(node)
            position = self._skip(position)
            if self.text.startswith("]", position):
                return entries, position + 1
            position = self._expect(",", position, field)

    def _object(self, position: int, field: Field) -> tuple[dict[str, Node], int]:
        members: dict[str, Node] = {}
        position = self._skip(position)
        if self.text.startswith("}", position):
            return members, position + 1
        while True:
            position = self._skip(position)
            key = self._place(position)
            self._expect('"', position, field)
            name, position = self._scalar(position, field)
            position = self._expect(":", self._skip(position), (*field, str(name)))
            node, position = self._node(self._skip(position), key, (*field, str(name)))
            self.add(members, str(name), node, field)
            position = self._skip(position)
            if self.text.startswith("}", position):
                return members, position + 1
            position = self._expect(",", position, field)


class _MappingReader(_Reader):
    def node(self, value: object, field: Field) -> Node:
        """The tree of a Python value."""
        self.enter(self.start, field)
        return Node(self._value(value, field), self.start, self.start)

    def _value(self, value: object, field: Field) -> "Scalar | list[Node] | dict[str, Node]":
        if isinstance(value, Mapping):
            members: dict[str, Node] = {}
            for key, child in value.items():
                if isinstance(key, str):
                    self.add(members, key, self.node(child, (*field, key)), field)
                else:
                    self.refuse(self.start, field, f"a key must be a text (is {shown(key)})")
            return members
        if isinstance(value, list | tuple):
            return [self.node(child, (*field, index)) for index, child in enumerate(value)]
        if isinstance(value, Path):
            return self._value(str(value), field)
        if value is None or type(value) in (bool, int, float, str):
            return self.scalar(value, self.start, field)  # type: ignore[arg-type]
        self.refuse(
            self.start,
            field,
            f"is a `{type(value).__name__}`: a config holds texts, numbers, true and false, lists and mappings",
        )
        return None
