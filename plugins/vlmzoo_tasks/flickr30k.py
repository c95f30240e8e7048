"""Flickr30k's captions (Young et al. 2014, TACL 2) as they are published: five lines of text for each image."""

import re
from collections.abc import Iterator

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Dataset, Sample
from vlmzoo_tasks.config import Flickr30kConfig
from vlmzoo_tasks.described import described_image
from vlmzoo_tasks.rows import BadRows, caption_field, read_text

_TOKEN = re.compile(r"(?P<image>[^\t|]+)#(?P<number>\d+)\t(?P<caption>.*)")
# One published row of the table has no bar behind its number: `2199200615.jpg| 4   A dog runs across the grass .`
_TABLE = re.compile(r"(?P<image>[^\t|]+)\|\s*(?P<number>\d+)(?:\s*\||\s{2,})(?P<caption>.*)")
_HEADER = re.compile(r"image_name\s*\|\s*comment_number\s*\|\s*comment\s*")


class Flickr30kDataset(Dataset):
    """One sample for each caption, in the order of the file.

    A file whose first line is `image_name| comment_number| comment` is the mirror's table, any other the token file
    (`1000092795.jpg#0<TAB>Two young guys ...`); every line must then be of that form, so that neither is taken for the other.
    Raises `DataError` with every bad line; an image is looked at when it is called.
    """

    def __init__(self, config: Flickr30kConfig) -> None:
        self.config = config
        self.rows: list[tuple[int, str, str, str]] = []
        bad = BadRows(config.path)
        seen: dict[str, int] = {}
        for line, found in _lines(read_text(config.path), bad):
            caption = caption_field({"caption": found["caption"]}, line, bad)
            image = found["image"].strip()
            identifier = f"{image}#{found['number']}"
            if identifier in seen:
                bad.add(line, "number", f"`{identifier}` is on line {seen[identifier]} too: number the captions of an image")
            elif caption is not None:
                self.rows.append((line, identifier, image, caption))
            seen.setdefault(identifier, line)
        bad.raise_any(self)
        if not self.rows:
            raise DataError(f"`{config.path}` has no captions: name a file that has some")

    def __len__(self) -> int:
        """How many captions there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """An image and one of its captions."""
        line, identifier, image, caption = self.rows[index]
        return described_image(
            identifier,
            image,
            caption,
            self.config.prompts,
            images=self.config.images,
            source=f"{self.config.path}:{line}",
            field="image",
        )


def _lines(text: str, bad: BadRows) -> Iterator[tuple[int, re.Match[str]]]:
    """The lines that are captions, with their numbers; what is none is noted."""
    lines = text.split("\n")
    table = _HEADER.fullmatch(lines[0]) is not None
    form, written = (_TABLE, "`image.jpg| 0| caption`") if table else (_TOKEN, "`image.jpg#0<TAB>caption`")
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (table and number == 1):
            continue
        found = form.fullmatch(line.rstrip("\r"))
        if found is None:
            other = _TOKEN if table else _TABLE
            hint = ""
            if other.fullmatch(line.rstrip("\r")):
                hint = f"; it is one of the {'token file' if table else 'table, whose first line is missing'}"
            bad.add(number, "row", f"must be {written} (is {line!r:.60}){hint}: correct it, or drop it")
        else:
            yield number, found
