"""Reads rows of JSON with the line each begins on, and collects what is wrong with them.

A file is read to its end before anything is raised, so that one look shows the reader what has to be mended.
"""

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmzoo_registry.errors import BadRowsError, DataError, Fault, RefusedRowsError, faults_of_rows
from vlmzoo_registry.images import ImageFile
from vlmzoo_registry.tasks import IMAGE, Dataset, Turn

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class BadRows:
    """What is wrong with rows of one file, or of one folder, whose places are then the paths in it."""

    def __init__(self, path: Path, *, folder: bool = False) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self._between = "/" if folder else ":"
        self._fatal = False

    @property
    def count(self) -> int:
        """How many faults there are."""
        return len(self.faults)

    def add(self, place: int | str, field: str, reason: str) -> None:
        """Note what is wrong with a field of the row that begins on this line, or that stands at this place of the file."""
        self.faults.append(Fault(f"{self.path}{self._between}{place}", f"{field}: {reason}"))

    def stop(self, place: int | str, field: str, reason: str) -> None:
        """Note what keeps the rows behind it from being read: without these rows the file must not be used."""
        self.add(place, field, reason)
        self._fatal = True

    def raise_any(self, rest: Dataset | None = None) -> None:
        """Raise what was noted, if anything: `BadRowsError` where the `rest` can do without, else `RefusedRowsError`."""
        if self.faults and rest is not None and not self._fatal:
            raise BadRowsError(str(self.path), self.faults, rest)
        if self.faults:
            raise RefusedRowsError(faults_of_rows(str(self.path), self.faults), self.faults)


def text_field(row: dict[str, Any], field: str, line: int | str, bad: BadRows) -> str | None:
    """The text of a field that must be there and not blank; None, and a reason noted, where it is not."""
    if field not in row:
        bad.add(line, field, f"missing (the row has {', '.join(sorted(row)) or 'nothing'}): add it, or drop the row")
        return None
    value = row[field]
    if not isinstance(value, str):
        bad.add(line, field, f"must be a text (is {type(value).__name__}): correct it, or drop the row")
        return None
    if not value.strip():
        bad.add(line, field, "empty: fill it, or drop the row")
        return None
    return value


def row_id(row: dict[str, Any], line: int | str, bad: BadRows) -> str:
    """The `id` of a row, or its line where it has none."""
    value = row.get("id", line)
    if isinstance(value, bool) or not isinstance(value, str | int):
        bad.add(line, "id", f"must be a text or a whole number (is {type(value).__name__}): correct it, or leave it out")
    elif not str(value).strip():
        bad.add(line, "id", "is empty: give it a text, or leave it out")
    return str(value)


def caption_field(row: dict[str, Any], line: int | str, bad: BadRows) -> str | None:
    """The `caption` of a row, stripped, in which no image may be marked; None, and a reason noted, where it is not good."""
    caption = text_field(row, "caption", line, bad)
    if caption is not None and IMAGE in caption:
        bad.add(line, "caption", f"contains `{IMAGE}`, which marks an image's place: take it out, or drop the row")
        return None
    return None if caption is None else caption.strip()


def image_names(row: dict[str, Any], field: str, line: int | str, bad: BadRows) -> tuple[str, ...]:
    """The images of a row: a path, a list of paths, or none."""
    value = row.get(field, [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        bad.add(line, field, f"must be a path or a list of paths (is {value!r:.60}): correct it, or leave it out")
        return ()
    return tuple(names)


def image_opener(folder: Path, name: str, where: str) -> ImageFile:
    """What opens the image `name`, which must lie under `folder`, when it is called; `where` leads the message of an error."""
    return ImageFile(folder / name, folder, where)


def check_markers(turns: Sequence[Turn], images: Sequence[str], field: str, words: str, line: int | str, bad: BadRows) -> None:
    """Note where the assistant marks an image, and where markers and images are not as many; `words` names a turn's text."""
    for number, turn in enumerate(turns):
        if turn.role == "assistant" and IMAGE in turn.text:
            bad.add(line, words.format(number), f"the assistant says `{IMAGE}`: images stand in what the user says; move it")
    markers = sum(turn.text.count(IMAGE) for turn in turns)
    if markers != len(images):
        many = f"{len(images)} images but {markers} `{IMAGE}` in the conversation"
        bad.add(line, field, f"{many}: make them equal, or drop the row")


def read_text(path: Path) -> str:
    """A file in UTF-8, with `.gz` decompressed. Raises `DataError` where there is none or it cannot be read."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"`{path}` cannot be read ({type(error).__name__}: {error}): correct the path or the file") from error


def read_rows(path: Path, bad: BadRows) -> Iterator[tuple[int | str, dict[str, Any]]]:
    """The rows of a JSON list (`.json`) or of JSON lines (any other name), also with `.gz`, each with its line number.

    Where rows of a list share a line, `1[7]` is the one with the index 7 in the list.

    What is no JSON or no object is noted in `bad`. Raises `DataError` where there is no such file or it cannot be read.
    """
    text = read_text(path)
    values = _list(text, bad) if path.name.removesuffix(".gz").endswith(".json") else _lines(text, bad)
    found = False
    for line, value in values:
        found = True
        if isinstance(value, dict):
            yield line, value
        else:
            bad.add(line, "row", f"must be an object of fields (is {type(value).__name__}): correct it, or drop it")
    if not found and not bad.count:
        raise DataError(f"`{path}` has no rows: name a file that has some")


def _lines(text: str, bad: BadRows) -> Iterator[tuple[int | str, Any]]:
    # Not splitlines(): JSON texts may hold separators such as U+2028, which do not end a row.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                value = whole_text(json.loads(line), line)
            except (ValueError, RecursionError) as error:
                bad.add(number, "row", f"is not JSON ({error}): correct it, or drop it")
            else:
                yield number, value


def _list(text: str, bad: BadRows) -> Iterator[tuple[int | str, Any]]:
    """Decode a list element by element: json.loads would lose the lines on which they begin."""
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        bad.stop(text.count("\n", 0, position) + 1, "file", "must be a JSON list, `[` first: name JSON lines `.jsonl`")
        return
    position = _skip(text, position + 1)
    line, counted = 1, 0
    index, last = 0, 0  # of the row, and the line of the one before
    closed = text[position : position + 1] == "]"
    if closed:
        position = _skip(text, position + 1)
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        place: int | str = f"{line}[{index}]" if line == last else line
        index, last = index + 1, line
        try:
            value, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            bad.stop(place, "row", f"is not JSON ({error}): correct it; what follows was not read")
            return
        try:
            value = whole_text(value, text[position:end])
        except ValueError as error:
            bad.add(place, "row", f"is not JSON ({error}): correct it, or drop it")
        else:
            yield place, value
        position = _skip(text, end)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            line += text.count("\n", counted, position)
            bad.stop(line, "row", f"`,` or `]` must follow a row (is {mark!r}): correct it; what follows was not read")
            return
        closed = mark == "]"
        position = _skip(text, position + 1)
    if position < len(text):
        bad.stop(text.count("\n", 0, position) + 1, "file", "goes on after the `]` of its list: cut what follows")


def whole_text(value: Any, text: str) -> Any:
    """A value that JSON's `text` gave. Raises `ValueError` for half of a surrogate pair: no file, no token has one."""
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("half of a surrogate pair, `\\ud800` to `\\udfff`, is no character") from error
    return value


def _skip(text: str, position: int) -> int:
    """The position of the next character that is not white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
