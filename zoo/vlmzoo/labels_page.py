"""What stages learn from, as a page to look at and to keep: one file that needs no other, and no script."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from vlmzoo.durable import replace_file
from vlmzoo.labels import LabelledRow, Labels, Piece
from vlmzoo.roles import Role
from vlmzoo.visible import visible
from vlmzoo_registry import DataError

TEMPLATE = Path(__file__).parent / "labels.html.j2"


@dataclass(frozen=True)
class Shown:
    """A piece, and the pictures that stand before it: those of an image, where this is its first piece."""

    piece: Piece
    pictures: tuple[str, ...]


def write_page(found: Sequence[Labels], path: Path) -> None:
    """Write the page. Raises `DataError` where the file cannot be written."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    environment.filters["share"] = lambda counted: f"{counted.supervised / counted.tokens:.0%}"
    environment.filters["plural"] = lambda number, word: f"{number:,} {word}{'' if number == 1 else 's'}"
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        stages=[(each, [(row, by_role(row)) for row in each.rows]) for each in found],
        hidden=any(piece.said is not None for each in found for row in each.rows for piece in row.pieces),
    )
    try:
        replace_file(path, page)
    except OSError as error:
        raise DataError(f"`{path}` cannot be written ({error}): name a file in a folder that exists") from error


def by_role(row: LabelledRow) -> list[tuple[Role | None, list[Shown]]]:
    """The pieces of a row by who says them, in their order."""
    shown, seen = [], set()
    for piece in row.pieces:
        first = piece.image is not None and piece.image not in seen and bool(row.pictures)
        shown.append(Shown(piece, row.pictures[piece.image] if first and piece.image is not None else ()))
        seen.add(piece.image)
    return [(role, list(group)) for role, group in groupby(shown, key=lambda each: each.piece.role)]
