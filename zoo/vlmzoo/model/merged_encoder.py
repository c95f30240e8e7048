"""Several vision encoders as one (Prismatic, arXiv:2402.07865, section 3.2; Cambrian-1): each sees the image its own way.

Their pixels travel on the channel axis of one tensor, as large as the largest; what an encoder does not need there is 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from vlmzoo_registry import (
    AssemblyError,
    ComponentConfig,
    FeatureShape,
    Grid,
    ImageTransform,
    VisionEncoder,
    VisionFeatures,
)


@dataclass(frozen=True, kw_only=True)
class StackedTransform(ImageTransform):
    """The transforms of several encoders, their pixels one above the other: [3 per encoder, H, W].

    `height` and `width` are the largest; `mean`, `std` and `interpolation` are those of the first.
    """

    transforms: tuple[ImageTransform, ...]

    def __call__(self, image: Image.Image) -> Float[Tensor, "C H W"]:
        """Each transform of the image."""
        return self._stacked([transform(image) for transform in self.transforms])

    def normalised(self, image: Image.Image) -> Float[Tensor, "C H W"]:
        """A view that a layout has cut, at the size of each encoder."""
        return self._stacked([transform.normalised(transform.resized(image, transform.size)) for transform in self.transforms])

    def _stacked(self, pixels: Sequence[Float[Tensor, "3 _ _"]]) -> Float[Tensor, "C H W"]:
        stacked = torch.zeros(3 * len(pixels), self.height, self.width)
        for number, picture in enumerate(pixels):
            stacked[3 * number : 3 * number + 3, : picture.shape[1], : picture.shape[2]] = picture
        return stacked


class MergedEncoder(VisionEncoder):
    """Encoders side by side: their tokens concatenated on the channel axis, on the grid of the first, or on the token axis.

    Raises `AssemblyError` with every reason why they cannot be merged so.
    """

    def __init__(self, encoders: Sequence[VisionEncoder], names: Sequence[str], merge: Literal["channels", "tokens"]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.merge = merge
        shapes = [encoder.output_shape for encoder in encoders]
        reasons: list[str] = []
        if merge == "channels":
            reasons += [
                f"`vision.{number}` ({name}) gives {shape}, which cannot be laid over a grid: give it `prefix: drop`, or "
                "`merge: tokens`"
                for number, (name, shape) in enumerate(zip(names, shapes, strict=True))
                if shape.grid is None or shape.prefix
            ]
        elif len({shape.width for shape in shapes}) > 1:
            widths = ", ".join(f"{name} {shape.width}" for name, shape in zip(names, shapes, strict=True))
            reasons.append(
                f"`merge: tokens` puts tokens of one width behind one another, and these differ ({widths}): use `channels`"
            )
        if reasons:
            raise AssemblyError("the vision encoders cannot be merged", reasons)

    @classmethod
    def resolve(cls, config: ComponentConfig) -> ComponentConfig:
        """Not asked for: each encoder has a component, and resolves itself."""
        raise NotImplementedError("a merged encoder is made by the assembler from encoders that resolve themselves")

    @property
    def parts(self) -> list[VisionEncoder]:
        """The encoders in order."""
        return [encoder for encoder in self.encoders if isinstance(encoder, VisionEncoder)]

    @property
    def output_shape(self) -> FeatureShape:
        """The grid of the first with all channels, or all tokens without a place."""
        shapes = [encoder.output_shape for encoder in self.parts]
        if self.merge == "tokens":
            return FeatureShape(width=shapes[0].width, count=sum(shape.count for shape in shapes), grid=None)
        return FeatureShape(width=sum(shape.width for shape in shapes), count=shapes[0].count, grid=shapes[0].grid)

    @property
    def transform(self) -> StackedTransform:
        """Every encoder's own."""
        transforms = tuple(encoder.transform for encoder in self.parts)
        first = transforms[0]
        return StackedTransform(
            height=max(transform.height for transform in transforms),
            width=max(transform.width for transform in transforms),
            mean=first.mean,
            std=first.std,
            interpolation=first.interpolation,
            transforms=transforms,
        )

    @property
    def unused_parameters(self) -> frozenset[str]:
        """Those of each encoder."""
        return self._named("unused_parameters")

    @property
    def idle_parameters(self) -> frozenset[str]:
        """Those of each encoder."""
        return self._named("idle_parameters")

    def _named(self, which: Literal["unused_parameters", "idle_parameters"]) -> frozenset[str]:
        return frozenset(
            f"encoders.{number}.{name}" for number, encoder in enumerate(self.parts) for name in getattr(encoder, which)
        )

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """None: which encoder's blocks a mode would count is not said."""
        raise AssemblyError(
            f"there are {len(self.encoders)} vision encoders, so which blocks `mode: last` counts or `mode: lora` adapts is "
            "not said: train them with `mode: full`, `norms` or `bias`"
        )

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> VisionFeatures:
        """Encode a batch of images, of which each encoder has its own three channels."""
        features = []
        for number, encoder in enumerate(self.parts):
            height, width = encoder.transform.size
            features.append(encoder(pixels[:, 3 * number : 3 * number + 3, :height, :width]))
        if self.merge == "tokens":
            return VisionFeatures(torch.cat([one.tokens for one in features], dim=1), grid=None)
        grid = features[0].grid
        return VisionFeatures(torch.cat([_on_grid(one, grid) for one in features], dim=2), grid=grid)


def _on_grid(features: VisionFeatures, grid: Grid | None) -> Float[Tensor, "B N D"]:
    """The tokens resampled to a grid (bilinear), as they are where it is their own."""
    if features.grid is None or grid is None or features.grid == grid:
        return features.tokens
    places = features.tokens.unflatten(1, features.grid).movedim(3, 1)  # [B, D, h, w]
    resampled = interpolate(places.float(), size=grid, mode="bilinear", align_corners=False).to(places.dtype)
    return resampled.flatten(2).transpose(1, 2)
