"""Rows of Parquet and Arrow files, the form in which Hugging Face's data sets are kept."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vlmzoo_registry.errors import BadRowError, DataError
from vlmzoo_registry.images import ImageFile, ImageSource, decode_image, size_of_image
from vlmzoo_registry.tasks import IMAGE, Dataset, Sample, Turn
from vlmzoo_tasks.chat import MESSAGES, read_message
from vlmzoo_tasks.config import ArrowConfig
from vlmzoo_tasks.conversations import read_turns
from vlmzoo_tasks.described import drawn
from vlmzoo_tasks.llava import CONVERSATIONS, read_llava_turn
from vlmzoo_tasks.rows import BadRows, caption_field, check_markers, image_opener, row_id, text_field
from vlmzoo_tasks.shards import Shard, find_shards

FORMS: tuple[Literal["messages", "conversations", "texts", "caption"], ...] = ("messages", "conversations", "texts", "caption")


@dataclass(frozen=True)
class _Columns:
    """Where the rows of a file hold what: the form and the name of what is said, the name of the images, the id."""

    form: Literal["messages", "conversations", "texts", "caption"]
    said: str
    images: str | None
    id: str | None


@dataclass(frozen=True)
class ArrowImage(ImageSource):
    """Opens an image that lies within a row; two of the same place are equal, two of the same bytes elsewhere are not."""

    shard: Path
    row: int
    number: int
    data: bytes = field(compare=False, repr=False)
    where: str = field(compare=False)

    def __call__(self) -> Image.Image:
        """The image, in RGB."""
        return decode_image(self.data, where=self.where)

    def size(self) -> tuple[int, int]:
        """Height and width, as they stand at the head of its bytes."""
        return size_of_image(self.data, where=self.where)

    def digest(self) -> str:
        """That of its bytes."""
        return hashlib.sha256(self.data).hexdigest()


class ArrowDataset(Dataset):
    """The rows, in the order of files and rows; what is said is looked at once before, images when they are called.

    A row is named by its file and its number from 0, as in `train-00000.parquet:17: messages`. Only numbers of rows are kept in
    memory. Raises `DataError` with every bad row.
    """

    def __init__(self, config: ArrowConfig) -> None:
        self.config = config
        self.rows: list[tuple[int, int]] = []  # number of the file, row in it
        bad = BadRows(config.path, folder=True)
        self._shards = find_shards(config.path)
        self._columns = [_columns(config, shard) for shard in self._shards]
        several = config.path.is_dir()
        for number, (shard, columns) in enumerate(zip(self._shards, self._columns, strict=True)):
            faults = BadRows(shard.path)
            said = [columns.said, *([columns.id] if columns.id is not None else [])]
            for index, row in enumerate(shard.rows(said, columns.images)):
                before = faults.count
                self._turns(row, columns, _pictures(row, columns, index, faults), index, faults)
                if faults.count == before:
                    self.rows.append((number, index))
            bad.faults += faults.faults
        bad.raise_any(self)
        if not self.rows:
            raise DataError(f"`{config.path}` has no rows{' in its files' if several else ''}: name a file that has some")

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The row as a conversation, with its images."""
        number, place = self.rows[index]
        shard, columns = self._shards[number], self._columns[number]
        row = shard.row(place)
        source = f"{shard.path}:{place}"
        faults = BadRows(shard.path)
        pictures = _pictures(row, columns, place, faults)
        identifier, turns = self._turns(row, columns, pictures, place, faults)
        faults.raise_any()
        field = str(columns.images)
        images = (self._opener(picture, shard.path, place, number, field) for number, picture in enumerate(pictures))
        return Sample(id=f"{number}:{identifier}", turns=turns, images=tuple(images), source=source)

    def _turns(
        self, row: dict[str, Any], columns: _Columns, pictures: list[Any], line: int, bad: BadRows
    ) -> tuple[str, tuple[Turn, ...]]:
        identifier = str(line) if columns.id is None else row_id({"id": row[columns.id]}, line, bad)
        before = bad.count
        given: dict[str, Any] = {columns.form: row[columns.said]}
        if columns.form == "messages":
            turns = read_turns(MESSAGES, read_message, _without_nulls(given), line, bad)
        elif columns.form == "conversations":
            turns = read_turns(CONVERSATIONS, read_llava_turn, _without_nulls(given), line, bad)
        elif columns.form == "texts":
            turns = _pairs(given["texts"], len(pictures), line, bad)
        else:
            caption = caption_field(given, line, bad)
            asked = IMAGE * len(pictures) + (drawn(self.config.prompts, identifier) if self.config.prompts else "")
            turns = () if caption is None else (Turn("user", asked), Turn("assistant", caption))
            if not pictures:
                bad.add(line, columns.images or "image", "missing: a caption needs an image; drop the row")
        if bad.count == before:
            check_markers(turns, ["image"] * len(pictures), columns.images or "images", f"{columns.said}[{{}}]", line, bad)
        return identifier, turns

    def _opener(self, picture: Any, shard: Path, row: int, number: int, field: str) -> ArrowImage | ImageFile:
        where = f"{shard}:{row}: {field}"
        data = picture.get("bytes") if isinstance(picture, dict) else picture
        if isinstance(data, bytes):
            return ArrowImage(shard, row, number, data, where)
        name = picture.get("path") if isinstance(picture, dict) else picture
        if not isinstance(name, str) or not name:
            raise BadRowError(f"{shard}:{row}", f"{field}: an image has neither bytes nor a path: drop the row")
        if self.config.images is None:
            reason = f"`{name}` is a path: name the folder that it starts from as `images` of this dataset"
            raise BadRowError(f"{shard}:{row}", f"{field}: {reason}")
        return image_opener(self.config.images, name, where)


def _columns(config: ArrowConfig, shard: Shard) -> _Columns:
    """What the columns of a file are. Raises `DataError` where that is not clear."""
    names = shard.columns
    listed = ", ".join(names) or "none"
    wanted = [config.form] if config.form is not None else list(FORMS)
    found = [form for form in wanted if (config.column or form) in names]
    reasons = []
    if len(found) != 1:
        several = (
            f"has {' and '.join(found)}"
            if found
            else f"has none of the columns {', '.join(config.column or f for f in wanted)}"
        )
        reasons.append(f"{several} (its columns are {listed}): say with `form` and `column` where the conversations stand")
    if config.image_column is not None and config.image_column not in names:
        reasons.append(f"has no column `{config.image_column}` (its columns are {listed}): correct `image_column`")
    pictures = [config.image_column] if config.image_column is not None else [n for n in ("images", "image") if n in names]
    if len(pictures) > 1:
        reasons.append("has `images` and `image`: say with `image_column` which of them holds the images")
    if reasons:
        raise DataError(f"`{shard.path}` cannot be used:", reasons)
    said = config.column or found[0]
    return _Columns(found[0], said, pictures[0] if pictures else None, "id" if "id" in names else None)


def _pictures(row: dict[str, Any], columns: _Columns, line: int, bad: BadRows) -> list[Any]:
    """The images of a row: bytes, paths, or mappings of both."""
    value = None if columns.images is None else row.get(columns.images)
    pictures = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(picture, bytes | str | dict) for picture in pictures):
        bad.add(line, columns.images or "images", "must be bytes, paths, or mappings of `bytes` and `path`: correct the column")
        return []
    return pictures


def _pairs(value: Any, images: int, line: int, bad: BadRows) -> tuple[Turn, ...]:
    """Pairs `{user, assistant}`, before the first of which the images stand."""
    if not isinstance(value, list) or not value or not all(isinstance(pair, dict) for pair in value):
        bad.add(line, "texts", f"must be a list of pairs `{{user, assistant}}` (is {value!r:.60}): correct it, or drop the row")
        return ()
    turns: list[Turn] = []
    for number, pair in enumerate(value):
        for role in ("user", "assistant"):
            place = f"texts[{number}].{role}"
            text = text_field({place: pair.get(role)}, place, line, bad)
            if text is not None and IMAGE in text:
                bad.add(line, place, f"contains `{IMAGE}`: images stand before the first pair; take it out")
            elif text is not None:
                before = (IMAGE * images + "\n") if images and not turns and role == "user" else ""
                turns.append(Turn("user" if role == "user" else "assistant", before + text))
    return tuple(turns)


def _without_nulls(value: Any) -> Any:
    """Without the keys that a row does not have: all structs of a column have the same, and null where one has none."""
    if isinstance(value, dict):
        return {key: _without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value
