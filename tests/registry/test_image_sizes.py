"""The size that is read from the head of an image is that of the decoded one: every format, every way of turning it."""

from io import BytesIO

import pytest
from PIL import ExifTags, Image

from vlmzoo_registry import DataError, ImageFile
from vlmzoo_registry.images import decode_image, size_of_image


def written(kind: str, orientation: int | None) -> bytes:
    image = Image.new("RGB", (20, 10), "white")
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    buffer = BytesIO()
    image.save(buffer, kind, **({} if orientation is None else {"exif": exif}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_an_image_on_its_side_has_the_size_that_is_shown(kind, orientation, tmp_path):
    data = written(kind, orientation)
    shown = decode_image(data, where="x")
    assert (shown.height, shown.width) == ((20, 10) if orientation in (5, 6, 7, 8) else (10, 20))
    assert size_of_image(data, where="x") == (shown.height, shown.width)
    (tmp_path / "image").write_bytes(data)
    assert ImageFile(tmp_path / "image", tmp_path, "x").size() == (shown.height, shown.width)


@pytest.mark.parametrize("kind", ["BMP", "GIF", "PPM"])
def test_formats_that_are_never_turned(kind):
    assert size_of_image(written(kind, None), where="x") == (10, 20)


def test_no_pixel_is_decoded():
    buffer = BytesIO()
    Image.effect_noise((20, 10), 50).save(buffer, "PNG")
    cut = buffer.getvalue()[:80]
    with pytest.raises(DataError, match="is damaged"):
        decode_image(cut, where="x")
    assert size_of_image(cut, where="x") == (10, 20)


def test_faults_are_those_of_opening(tmp_path):
    for data in (b"no image", b"", written("JPEG", None)[:30]):
        with pytest.raises(DataError) as opened:
            decode_image(data, where="rows.jsonl:3: image")
        with pytest.raises(DataError) as sized:
            size_of_image(data, where="rows.jsonl:3: image")
        assert str(sized.value) == str(opened.value)
    with pytest.raises(DataError, match=r"x: `.*missing\.png` is not a file"):
        ImageFile(tmp_path / "missing.png", tmp_path, "x").size()
