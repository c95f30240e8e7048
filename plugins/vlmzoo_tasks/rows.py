"""Reads rows of JSON with the line each begins on, and collects what is wrong with them.

A file is read to its end before anything is raised, so that one look shows the reader what has to be mended.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.images import open_image
from vlmzoo_registry.tasks import IMAGE, Turn

SHOWN = 20


class BadRows:
    """The reasons why rows of one file cannot be used; the first `SHOWN` are kept, all are counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reasons: list[str] = []
        self.count = 0

    def add(self, place: int | str, field: str, reason: str) -> None:
        """Note what is wrong with a field of the row that begins on this line, or that stands at this place of the file."""
        self.count += 1
        if self.count <= SHOWN:
            self.reasons.append(f"{self.path}:{place}: {field}: {reason}")

    def raise_any(self) -> None:
        """Raise `DataError` with what was noted, if anything was."""
        if self.count:
            shown = f", of which the first {SHOWN} are" if self.count > SHOWN else ""
            noun = "fault" if self.count == 1 else "faults"
            raise DataError(f"`{self.path}` has {self.count} {noun} in its rows{shown}:", self.reasons)


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


def row_id(row: dict[str, Any], line: int, bad: BadRows) -> str:
    """The `id` of a row, or its line where it has none."""
    value = row.get("id", line)
    if isinstance(value, bool) or not isinstance(value, str | int):
        bad.add(line, "id", f"must be a text or a whole number (is {type(value).__name__}): correct it, or leave it out")
    return str(value)


def caption_field(row: dict[str, Any], line: int | str, bad: BadRows) -> str | None:
    """The `caption` of a row, stripped, in which no image may be marked; None, and a reason noted, where it is not good."""
    caption = text_field(row, "caption", line, bad)
    if caption is not None and IMAGE in caption:
        bad.add(line, "caption", f"contains `{IMAGE}`, which marks an image's place: take it out, or drop the row")
        return None
    return None if caption is None else caption.strip()


def image_names(row: dict[str, Any], field: str, line: int, bad: BadRows) -> tuple[str, ...]:
    """The images of a row: a path, a list of paths, or none."""
    value = row.get(field, [])
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        bad.add(line, field, f"must be a path or a list of paths (is {value!r:.60}): correct it, or leave it out")
        return ()
    return tuple(names)


def image_opener(folder: Path, name: str, where: str) -> Callable[[], Image.Image]:
    """What opens the image `name`, which must lie under `folder`, when it is called; `where` leads the message of an error."""
    return partial(open_image, folder / name, where=where, root=folder)


def check_markers(turns: Sequence[Turn], images: Sequence[str], field: str, words: str, line: int, bad: BadRows) -> None:
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
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read ({type(error).__name__}: {error}): correct the path or the file") from error


def read_rows(path: Path, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSON list (`.json`) or of JSON lines (any other name), also with `.gz`, each with its line number.

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


def _lines(text: str, bad: BadRows) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): JSON texts may hold separators such as U+2028, which do not end a row.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                bad.add(number, "row", f"is not JSON ({error}): correct it, or drop it")


def _list(text: str, bad: BadRows) -> Iterator[tuple[int, Any]]:
    """Decode a list element by element: json.loads would lose the lines on which they begin."""
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        bad.add(text.count("\n", 0, position) + 1, "file", "must be a JSON list, `[` first: name JSON lines `.jsonl`")
        return
    position = _skip(text, position + 1)
    line, counted = 1, 0
    closed = text[position : position + 1] == "]"
    if closed:
        position = _skip(text, position + 1)
    while not closed:
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (json.JSONDecodeError, RecursionError) as error:
            bad.add(line, "row", f"is not JSON ({error}): correct it; what follows was not read")
            return
        yield line, value
        position = _skip(text, position)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            line += text.count("\n", counted, position)
            bad.add(line, "row", f"`,` or `]` must follow a row (is {mark!r}): correct it; what follows was not read")
            return
        closed = mark == "]"
        position = _skip(text, position + 1)
    if position < len(text):
        bad.add(text.count("\n", 0, position) + 1, "file", "goes on after the `]` of its list: cut what follows")


def _skip(text: str, position: int) -> int:
    """The position of the next character that is not white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
