"""What a part says of tensors that it cannot take: what was expected and what came, instead of torch's word on matrices."""

from torch import Tensor

from vlmzoo_registry.errors import AssemblyError


def check_pixels(part: str, pixels: Tensor, height: int, width: int) -> None:
    """Raise `AssemblyError` unless `pixels` are [B, 3, height, width]."""
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, height, width):
        raise AssemblyError(
            f"`{part}`: `pixels` are {_written(pixels)}, and it was set up for [images, 3, {height}, {width}]: make them with "
            "its `transform`"
        )


def check_tokens(part: str, name: str, tokens: Tensor, width: int) -> None:
    """Raise `AssemblyError` unless `tokens`, which the part calls `name`, are [B, any number, width]."""
    if tokens.ndim != 3 or tokens.shape[2] != width:
        raise AssemblyError(
            f"`{part}`: `{name}` are {_written(tokens)}, and it was set up for [rows, tokens, {width}]: what comes before "
            f"it must give {width} numbers for each token"
        )


def check_views(layout: str, tokens: Tensor, views: int, count: int) -> None:
    """Raise `AssemblyError` unless `tokens`, those of the views of one image, are [views, count, any width]."""
    if tokens.ndim != 3 or tuple(tokens.shape[:2]) != (views, count):
        raise AssemblyError(
            f"`{layout}`: the tokens of an image are {_written(tokens)}, and its arrangement has [{views} views, {count} "
            "tokens, width]: give it the arrangement by which these views were cut"
        )


def _written(tensor: Tensor) -> str:
    return "[" + ", ".join(str(size) for size in tensor.shape) + "]"
