"""An image known by what it is, whatever file or row it comes from: by its bytes, or where these are not told by its pixels."""

import hashlib
from collections.abc import Callable

from PIL import Image

from vlmzoo_registry import ImageSource


def content(image: Callable[[], Image.Image]) -> str:
    """What tells this image from every other, as it is now; opens it only where it is no `ImageSource`.

    Raises `DataError` where it cannot be read.
    """
    if isinstance(image, ImageSource):
        return f"bytes-{image.digest()}"
    opened = image()
    digest = hashlib.sha256(f"{opened.mode} {opened.size}".encode())
    digest.update(opened.tobytes())
    return f"pixels-{digest.hexdigest()}"


class LookedUp:
    """An image of a sample within one batch: what it is known by is found once, however often it is asked for."""

    def __init__(self, image: Callable[[], Image.Image]) -> None:
        self.image = image
        self._content: str | None = None

    def __call__(self) -> Image.Image:
        """The image itself."""
        return self.image()

    @property
    def content(self) -> str:
        """What it is known by. Raises `DataError` where it cannot be read."""
        if self._content is None:
            self._content = content(self.image)
        return self._content
