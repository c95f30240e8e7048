"""Plain text as blocks of lines, which empty lines part; the line on which each begins is kept for messages."""

from pathlib import Path

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import IMAGE
from vlmzoo_tasks.rows import BadRows, read_text

Block = list[tuple[int, str]]
"""Lines with their numbers, stripped, none of them empty."""


def read_blocks(path: Path, bad: BadRows) -> list[Block]:
    """The blocks of a text file; a line that would mark an image is noted in `bad` and left out.

    Raises `DataError` where the file cannot be read or has no words.
    """
    blocks: list[Block] = [[]]
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        words = line.strip()
        if IMAGE in words:
            bad.add(number, "line", f"contains `{IMAGE}`, which marks an image's place: take it out")
        elif words:
            blocks[-1].append((number, words))
        elif blocks[-1]:
            blocks.append([])
    found = [block for block in blocks if block]
    if not found and not bad.count:
        raise DataError(f"`{path}` has no words: name a file that has some")
    return found
