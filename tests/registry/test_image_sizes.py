"""The size that is read from the head of an image is that of the decoded one: every format, every way of turning it."""

import zlib
from io import BytesIO

import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile

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


def chunks(data: bytes) -> list[bytes]:
    """The chunks of a PNG, with their lengths and checksums."""
    found, place = [], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        found.append(data[place:end])
        place = end
    return found


def chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def described_at_the_end(*described: bytes, animated: bool = False) -> bytes:
    """A PNG of noise in many chunks of pixels, these chunks behind them."""
    image = Image.effect_noise((400, 300), 100)
    buffer = BytesIO()
    if animated:
        image.save(buffer, "PNG", save_all=True, append_images=[Image.effect_noise((400, 300), 100)])
    else:
        image.save(buffer, "PNG")
    *rest, end = chunks(buffer.getvalue())
    place = len(rest)
    if animated:
        place = next(number for number, one in enumerate(rest) if one[4:8] == b"fdAT") - 1
        assert rest[place][4:8] == b"fcTL"
    assert animated or sum(one[4:8] == b"IDAT" for one in rest) > 1
    return PNG + b"".join([*rest[:place], *described, *rest[place:], end])


PNG = b"\x89PNG\r\n\x1a\n"
ON_ITS_SIDE = Image.Exif()
ON_ITS_SIDE[ExifTags.Base.Orientation] = 6
EXIF = ON_ITS_SIDE.tobytes()
PROFILE = b"\nexif\n%8d\n%s\n" % (len(EXIF), EXIF.hex().encode())
XMP = b'<rdf:Description tiff:Orientation="8" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/>'
AT_THE_END = {
    "eXIf": chunk(b"eXIf", EXIF.removeprefix(b"Exif\0\0")),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "raw profile": chunk(b"tEXt", b"Raw profile type exif\0" + PROFILE),
    "packed raw profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(PROFILE)),
}


@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize("name", AT_THE_END)
def test_a_png_that_says_at_its_end_how_it_is_turned(name, animated, tmp_path):
    """As phones and editors append it: behind the pixels, other chunks around it."""
    data = described_at_the_end(chunk(b"tIME", bytes(7)), AT_THE_END[name], animated=animated)
    shown = decode_image(data, where="x")
    assert (shown.height, shown.width) == (400, 300)
    assert size_of_image(data, where="x") == (400, 300)
    (tmp_path / "image").write_bytes(data)
    assert ImageFile(tmp_path / "image", tmp_path, "x").size() == (400, 300)


def test_the_end_of_a_png_overrules_its_head():
    upright = Image.Exif()
    upright[ExifTags.Base.Orientation] = 1
    *rest, end = chunks(described_at_the_end(AT_THE_END["eXIf"]))
    data = PNG + b"".join([rest[0], chunk(b"eXIf", upright.tobytes().removeprefix(b"Exif\0\0")), *rest[1:], end])
    shown = decode_image(data, where="x")
    assert size_of_image(data, where="x") == (shown.height, shown.width) == (400, 300)


@pytest.mark.parametrize("text", [b"date:create\0 2020", b"Comment\0XML:com.adobe.xmp", b"", b"exif"[:3]])
def test_what_says_nothing_about_turning_decodes_nothing(text, monkeypatch):
    data = described_at_the_end(chunk(b"tEXt", text)) + AT_THE_END["eXIf"]  # behind the end nothing is read
    shown = decode_image(data, where="x")
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    assert size_of_image(data, where="x") == (shown.height, shown.width) == (300, 400)


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
