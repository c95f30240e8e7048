"""How a tiny vision encoder is made and fed: with pictures of odd sizes, through its own transform."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.testing.harness import Harness
from vlmzoo_registry.testing.tiny import make
from vlmzoo_registry.vision import VisionEncoder

SIZES = ((50, 37), (20, 64), (33, 33), (90, 91))


class VisionHarness(Harness[VisionEncoder]):
    """Vision encoders."""

    def make(self, config: ComponentConfig) -> VisionEncoder:
        """Call the factory."""
        return make(self.component, VisionEncoder, config)  # type: ignore[type-abstract]

    def declared(self, part: VisionEncoder) -> dict[str, object]:
        """Shape, preprocessing, unused parameters."""
        return {
            "output_shape": part.output_shape,
            "transform": part.transform,
            "unused_parameters": part.unused_parameters,
        }

    def images(self, rows: int) -> list[Image.Image]:
        """Noise in different sizes."""
        sizes = [SIZES[row % len(SIZES)] for row in range(rows)]
        return [Image.fromarray(np.random.randint(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]

    def inputs(self, part: VisionEncoder, rows: int) -> tuple[Tensor, ...]:
        """Pixels [B, 3, H, W]."""
        return (torch.stack([part.transform(image) for image in self.images(rows)]),)

    def outputs(self, part: VisionEncoder, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tokens [B, N, D]."""
        return (part(inputs[0]).tokens,)

    def wrong_calls(self, part: VisionEncoder) -> dict[str, Callable[[], object]]:
        """Pixels without a batch, without colours, and of another size."""
        height, width = part.transform.size
        return {
            f"pixels of rank 3 (3, {height}, {width})": lambda: part(torch.zeros(3, height, width)),
            f"pixels of 1 channel (2, 1, {height}, {width})": lambda: part(torch.zeros(2, 1, height, width)),
            f"pixels of another size (2, 3, {height + 5}, {width})": lambda: part(torch.zeros(2, 3, height + 5, width)),
        }

    def unused(self, part: VisionEncoder) -> frozenset[str]:
        """As declared."""
        return part.unused_parameters
