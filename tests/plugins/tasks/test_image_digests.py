"""Images are known by their bytes: the same bytes anywhere are the same image, and nothing is decoded to tell."""

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from vlmzoo_registry import DataError, ImageFile, ImageSource
from vlmzoo_tasks.arrow import ArrowImage


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_the_digest_is_that_of_the_bytes(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    expected = hashlib.sha256(data).hexdigest()
    sources: list[ImageSource] = [ImageFile(file, tmp_path, "rows:1"), ArrowImage(tmp_path / "a.arrow", 3, 0, data, "rows:2")]
    assert [source.digest() for source in sources] == [expected, expected]
    file.write_bytes(data + b"\0")
    assert sources[0].digest() != expected


def test_no_pixel_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "none.png").write_bytes(b"no image")
    source = ImageFile(tmp_path / "none.png", None, "rows:1: image")
    assert source.digest() == hashlib.sha256(b"no image").hexdigest()
    with pytest.raises(DataError, match="not an image of a known format"):
        source()


def test_a_file_that_may_not_be_opened_has_no_digest(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows:1: `.*missing\.png` is not a file: correct the path or the image folder"):
        ImageFile(tmp_path / "missing.png", None, "rows:1").digest()
    (tmp_path / "inside").mkdir()
    with pytest.raises(DataError, match=r"rows:1: `.*` leads out of the image folder"):
        ImageFile(tmp_path / "inside" / ".." / "red.png", tmp_path / "inside", "rows:1").digest()
