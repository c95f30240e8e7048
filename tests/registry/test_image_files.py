"""Image files are read whole, upright and in RGB, or refused with the reason; every fault is planted here."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vlmzoo_registry import DataError
from vlmzoo_registry.images import MAX_PIXELS, open_image, to_rgb


def refused(path, root=None) -> str:
    with pytest.raises(DataError) as caught:
        open_image(path, where="rows.jsonl:3: image", root=root)
    message = str(caught.value)
    assert message.startswith(f"rows.jsonl:3: image: `{path}` ")
    return message


def test_transparent_pixels_show_white(tmp_path):
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (255, 0, 0, 51))  # a fifth red, the rest white
    grey = Image.new("LA", (1, 1), (0, 0))
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 255])
    half.save(tmp_path / "half.png")
    grey.save(tmp_path / "grey.png")
    palette.save(tmp_path / "palette.png", transparency=0)
    image = open_image(tmp_path / "half.png", where="x")
    assert (image.mode, image.getpixel((0, 0)), image.getpixel((1, 0))) == ("RGB", (255, 0, 0), (255, 204, 204))
    assert open_image(tmp_path / "grey.png", where="x").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "palette.png", where="x").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "I;16"])
def test_white_is_white_in_every_mode(tmp_path, mode):
    image = Image.new("RGB", (2, 2), "white").convert(mode) if mode != "I;16" else Image.new("I;16", (2, 2), 65535)
    image.save(tmp_path / "white.tiff")
    read = open_image(tmp_path / "white.tiff", where="x")
    assert read.mode == "RGB"
    assert read.getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bits_keep_their_shades():
    # Pillow's own conversion cuts everything above 255 to white.
    ramp = Image.fromarray((np.arange(256, dtype=np.uint16) * 256)[None])
    assert ramp.mode == "I;16"
    assert [value[0] for value in to_rgb(ramp).get_flattened_data()] == list(range(256))


def test_pixels_without_a_scale_are_refused(tmp_path):
    Image.new("F", (1, 1), 3.5).save(tmp_path / "float.tiff")
    assert "pixels of mode F have no known scale: save it with 8 bits per channel" in refused(tmp_path / "float.tiff")


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10), "white")
    image.paste("black", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    read = open_image(tmp_path / "turned.jpg", where="x")
    assert read.size == (10, 20)
    assert read.getpixel((5, 2))[0] < 20
    assert read.getpixel((5, 17))[0] > 235


def test_files_outside_the_folder_are_refused(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    (tmp_path / "images-too").mkdir()
    Image.new("RGB", (1, 1)).save(tmp_path / "secret.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "images-too" / "a.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    for path in (root / "link.png", root / ".." / "secret.png", tmp_path / "secret.png", root / ".." / "images-too" / "a.png"):
        assert f"leads out of the image folder `{root}`" in refused(path, root)
    assert open_image(tmp_path / "secret.png", where="x").size == (1, 1)
    # A link inside the folder, or a folder that is itself reached by a link, is fine.
    Image.new("RGB", (1, 1)).save(root / "a.png")
    (root / "same.png").symlink_to(root / "a.png")
    (tmp_path / "other-name").symlink_to(root)
    assert open_image(root / "same.png", where="x", root=root).size == (1, 1)
    assert open_image(tmp_path / "other-name" / "a.png", where="x", root=tmp_path / "other-name").size == (1, 1)


def test_missing_and_foreign_files_are_refused(tmp_path):
    assert "is not a file: correct the path" in refused(tmp_path / "absent.png")
    assert "is not a file" in refused(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    assert "is not an image of a known format (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)" in refused(tmp_path / "text.png")
    (tmp_path / "empty.png").write_bytes(b"")
    assert "is not an image of a known format" in refused(tmp_path / "empty.png")


def test_formats_that_start_programs_are_not_opened(tmp_path):
    (tmp_path / "a.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert Image.open(tmp_path / "a.eps").format == "EPS"  # Pillow itself would hand it to Ghostscript
    assert "is not an image of a known format" in refused(tmp_path / "a.eps")


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG of this size: enough to open, far too little to decode."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("error")
def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
    (tmp_path / "huge.png").write_bytes(png(8000, 8001))
    assert "has 8000 x 8001 = 64,008,000 pixels, more than the 64,000,000 allowed: scale it down" in refused(
        tmp_path / "huge.png"
    )
    (tmp_path / "warned.png").write_bytes(png(10_000, 10_000))  # Pillow warns here
    assert "has 10000 x 10000 = 100,000,000 pixels" in refused(tmp_path / "warned.png")
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))  # and raises an error of its own here
    assert "has more than the 64,000,000 pixels allowed: scale it down" in refused(tmp_path / "bomb.png")
    assert MAX_PIXELS == 64_000_000
    (tmp_path / "edge.png").write_bytes(png(8000, 8000))  # allowed, and only then found to be empty
    assert "is damaged" in refused(tmp_path / "edge.png")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_cut_files_are_refused(tmp_path, form):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, form)
    whole = buffer.getvalue()
    (tmp_path / "whole").write_bytes(whole)
    assert open_image(tmp_path / "whole", where="x").size == (64, 64)
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "cut").write_bytes(whole[: int(len(whole) * share)])
        message = refused(tmp_path / "cut")
        assert "is damaged" in message or "cannot be opened" in message or "is not an image" in message
