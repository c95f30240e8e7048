"""What a view of some size becomes on its way to the text: told before anything runs, in one place."""

from collections.abc import Iterable

from torch import nn

from vlmzoo_registry import Connector, FeatureShape, ImageSize, VisionEncoder


def shapes_at(vision: VisionEncoder, connectors: Iterable[nn.Module], size: ImageSize) -> tuple[FeatureShape, ...]:
    """The shape behind the encoder, and behind each connector that maps tokens to tokens.

    Raises `AssemblyError` for a size that one of them cannot take.
    """
    shapes = [vision.shape_at(size)]
    for connector in connectors:
        if isinstance(connector, Connector):
            shapes.append(connector.output_shape(shapes[-1]))
    return tuple(shapes)
