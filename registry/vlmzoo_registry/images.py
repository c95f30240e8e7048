"""How an image file becomes pixels: whole, upright, RGB, and only from where images may lie.

Datasets and commands open images through this one door, so that a bad file is refused with the same words everywhere.
"""

import hashlib
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from io import SEEK_CUR, BytesIO
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from vlmzoo_registry.errors import DataError

MAX_PIXELS = 64_000_000
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes by itself; others (EPS) would start foreign programs."""

_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations that exchange height and width
_PNG_SIGNATURE = 8  # bytes before the first chunk of a PNG
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEYWORD = 80  # the most bytes of the keyword of such a chunk, with the zero behind it
_TURNING_TEXTS = (b"exif", b"xmp", b"XML:com.adobe.xmp", b"Raw profile type exif")  # where Pillow looks for an orientation
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB: what is transparent shows white, 16-bit grey is scaled to 8 bits.

    Raises `ValueError` for a mode that has no colours of a known scale (32-bit integers, floats).
    """
    if image.mode in _SIXTEEN_BIT:
        return image.point(lambda value: value / 256, "L").convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known scale: save it with 8 bits per channel")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image)
        image = canvas
    return image.convert("RGB")


def open_image(path: Path, *, where: str, root: Path | None = None) -> Image.Image:
    """The first frame of the image at `path`: decoded in full, turned as its EXIF data says, in RGB.

    Where a `root` is given, the file must lie under it once all links are followed. `where` (`file:line: field`) leads the
    message. Raises `DataError` where the file is missing, elsewhere, above `MAX_PIXELS`, of another format, or damaged.
    """
    return _decoded(_real(path, where, root), f"{where}: `{path}`")


def _real(path: Path, where: str, root: Path | None) -> Path:
    """The file that a path leads to. Raises `DataError` where there is none, or it lies elsewhere."""
    try:
        real = path.resolve()
        inside = root is None or real.is_relative_to(root.resolve())
        there = inside and real.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a NUL in it, links in a circle
        raise DataError(f"{where}: {str(path)!r:.80} cannot be a file ({error}): correct the path") from error
    if not inside:
        raise DataError(
            f"{where}: `{path}` leads out of the image folder `{root}`: move the image there, or name its real folder"
        )
    if not there:
        raise DataError(f"{where}: `{path}` is not a file: correct the path or the image folder")
    return real


def size_of_image(data: bytes, *, where: str) -> tuple[int, int]:
    """Height and width of what `decode_image` gives, with the same errors.

    They are read from the head of the image; only a PNG that says behind its pixels how it is turned is decoded.
    """
    return _size(BytesIO(data), f"{where}: the image")


def decode_image(data: bytes, *, where: str) -> Image.Image:
    """The first frame of the image in `data`, as `open_image` gives that of a file, with the same errors."""
    return _decoded(BytesIO(data), f"{where}: the image")


class ImageSource(ABC):
    """Derive from this what opens an image of a `Sample`, where the image can be known without being decoded.

    Features of a frozen encoder are then looked up by the digest alone; another callable is opened for it, and known by its
    pixels.
    """

    @abstractmethod
    def __call__(self) -> Image.Image:
        """The image, decoded in full, in RGB. Raises `DataError` where it cannot be used."""

    @abstractmethod
    def digest(self) -> str:
        """The SHA-256, in hexadecimal, of all the bytes that decide what the image is, as they are now.

        Raises `DataError` where they cannot be read.
        """

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of the image that a call gives, without decoding its pixels.

        Raises `DataError` where they cannot be read.
        """


@dataclass(frozen=True)
class ImageFile(ImageSource):
    """Opens an image when it is called, as `open_image` does: what a `Sample` holds.

    Two that open the same file are equal, whichever rows they belong to.
    """

    path: Path
    root: Path | None
    where: str = field(compare=False)

    def __call__(self) -> Image.Image:
        """The image, in RGB."""
        return open_image(self.path, where=self.where, root=self.root)

    def size(self) -> tuple[int, int]:
        """Height and width, as `size_of_image` reads them."""
        return _size(_real(self.path, self.where, self.root), f"{self.where}: `{self.path}`")

    def digest(self) -> str:
        """That of the file."""
        try:
            with _real(self.path, self.where, self.root).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{self.where}: `{self.path}` cannot be read ({error}): replace it, or drop the row") from error


def _opened(source: Path | BytesIO, named: str) -> Image.Image:
    """An image of which only the head is read; `named` leads the messages of errors."""
    try:
        with warnings.catch_warnings():
            # Pillow's own warning comes at another limit than ours, and later.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise DataError(f"{named} is not an image of a known format ({formats}): convert it, or drop the row") from None
    except Image.DecompressionBombError:
        raise DataError(f"{named} has more than the {MAX_PIXELS:,} pixels allowed: scale it down") from None
    except Exception as error:
        raise DataError(f"{named} cannot be opened ({type(error).__name__}: {error}): replace it, or drop the row") from error
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        image.close()
        raise DataError(
            f"{named} has {image.width} x {image.height} = {pixels:,} pixels, "
            f"more than the {MAX_PIXELS:,} allowed: scale it down"
        )
    return image


def _decoded(source: Path | BytesIO, named: str) -> Image.Image:
    """The image in a file or in bytes; `named` leads the messages of errors."""
    with _opened(source, named) as image:
        try:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # decoders raise whatever they like on damaged bytes
            raise DataError(f"{named} is damaged ({type(error).__name__}: {error}): replace it, or drop the row") from error


def _is_described_at_the_end(file: IO[bytes] | None) -> bool:
    """Whether a PNG has, behind its pixels, what may say how it is turned; the file stays where it is.

    Chunks: PNG, third edition (W3C), section 5.3.
    """
    if file is None:
        return False
    before = file.tell()
    behind = False
    try:
        file.seek(_PNG_SIGNATURE)
        while len(head := file.read(8)) == 8 and not head.endswith(b"IEND"):
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            behind = behind or kind == b"IDAT"
            if behind and kind == b"eXIf":
                return True
            keyword = file.read(min(length, _KEYWORD)) if behind and kind in _PNG_TEXTS else b""
            if keyword.partition(b"\0")[0] in _TURNING_TEXTS:
                return True
            file.seek(length - len(keyword) + 4, SEEK_CUR)  # 4: the checksum
    finally:
        file.seek(before)
    return False


def _size(source: Path | BytesIO, named: str) -> tuple[int, int]:
    """Height and width of what `_decoded` gives."""
    with _opened(source, named) as image:
        try:
            if isinstance(image, PngImageFile) and _is_described_at_the_end(image.fp):
                image.load()  # rare; so there is nothing that is read here otherwise than there
            # Pillow turns the size of a TIFF before its pixels, and for the data of a PNG it would decode these.
            turned = (
                not isinstance(image, TiffImageFile)
                and Image.Image.getexif(image).get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
            )
        except Exception as error:
            raise DataError(f"{named} is damaged ({type(error).__name__}: {error}): replace it, or drop the row") from error
        return (image.width, image.height) if turned else (image.height, image.width)
