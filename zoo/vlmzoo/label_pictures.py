"""What a model sees of an image, made small enough for a page: its views behind the transform, turned back into pictures."""

import base64
import io
from collections.abc import Callable

from jaxtyping import Float
from PIL import Image
from torch import Tensor, tensor

from vlmzoo.data import ImageReader
from vlmzoo.model.merged_encoder import StackedTransform
from vlmzoo_registry import ImageTransform

SIDE = 112
"""Pixels of the longer side of a picture on the page."""


def what_the_model_sees(image: Callable[[], Image.Image], reader: ImageReader, source: str) -> tuple[str, ...]:
    """The views of an image as data URIs; of several encoders, those of each. Raises `DataError` as `reader.views` does."""
    transform = reader.transform
    each = transform.transforms if isinstance(transform, StackedTransform) else (transform,)
    pictures = []
    for pixels in reader.views(image(), source):
        for number, own in enumerate(each):
            seen = pixels[3 * number : 3 * number + 3]
            if len(each) > 1:  # what an encoder does not need of the largest is 0
                seen = seen[:, : own.height, : own.width]
            pictures.append(_data_uri(picture(seen, own)))
    return tuple(pictures)


def picture(pixels: Float[Tensor, "3 H W"], transform: ImageTransform) -> Image.Image:
    """The picture that the transform has turned into these pixels: its normalisation undone."""
    mean, std = (tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    values = ((pixels * std + mean) * 255).round().clamp(0, 255)  # [3, H, W]
    return Image.fromarray(values.byte().permute(1, 2, 0).numpy())


def _data_uri(whole: Image.Image) -> str:
    small = whole.copy()
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
