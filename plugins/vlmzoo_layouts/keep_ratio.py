"""Idefics2's layout: one view that keeps the ratio of the image, and as many tokens for it whatever its size.

The encoder takes any size, and a resampler behind it gathers what it saw in a fixed number of tokens.
"""

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vlmzoo_layouts.config import KeepRatioConfig
from vlmzoo_registry import (
    Arrangement,
    AssemblyError,
    ImageLayout,
    ImageSize,
    ImageText,
    ImageTransform,
    LayoutContext,
    VisionFeatures,
    check_views,
)

_AROUND = "<fake_token_around_image>"


class KeepRatio(ImageLayout):
    """One view whose longer side is at most `longest_edge` and whose sides are at least `shortest_edge`; a token around it.

    Without splitting. The figures are those of transformers' Idefics2 (https://arxiv.org/abs/2405.02246), whose encoder does
    not see what is over whole patches either. Raises `AssemblyError` where the encoder does not take a size, or the number of
    tokens depends on it.
    """

    def __init__(self, config: KeepRatioConfig, context: LayoutContext) -> None:
        super().__init__()
        self.shortest, self.longest, self.patch = config.shortest_edge, config.longest_edge, config.patch
        least, most = self._whole(self.shortest), self._whole(self.longest)
        reasons, counts = [], {}
        for size in ((least, least), (least, most), (most, least), (most, most)):
            try:
                counts[size] = context.shape_at(size).count
            except AssemblyError as error:
                reasons.append(f"{size[0]}x{size[1]} pixels: {error}")
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{height}x{width} pixels {count}" for (height, width), count in counts.items())
            reasons.append(
                f"its tokens must be as many for every size, and they are: {found}; end the connectors with a resampler, or "
                "use `native`"
            )
        if reasons:
            raise AssemblyError("`keep-ratio` gives the encoder views of the images' own sizes:", reasons)
        self.count = counts[least, least]

    @property
    def fixed(self) -> None:
        """It depends on the size of the image."""
        return None

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """What stands around an image."""
        return (_AROUND,)

    def arrangement(self, size: ImageSize) -> Arrangement:
        """One view of the size that is said, in whole patches."""
        return Arrangement(1, 1, *(self._whole(side) for side in self._scaled(size)))

    def views(self, arrangement: Arrangement) -> int:
        """One."""
        return 1

    def view_size(self, arrangement: Arrangement) -> ImageSize:
        """As the arrangement has it."""
        return arrangement.height, arrangement.width

    def cut(self, image: Image.Image, transform: ImageTransform) -> list[Float[Tensor, "C H W"]]:
        """The image at its scaled size, without what is over whole patches at the right and below."""
        scaled = transform.resized(image, self._scaled((image.height, image.width)))
        return [transform.normalised(scaled.crop((0, 0, self._whole(scaled.width), self._whole(scaled.height))))]

    def text(self, arrangement: Arrangement) -> ImageText:
        """Its slots between two tokens."""
        return _AROUND, self.count, _AROUND

    def thumbnail(self, arrangement: Arrangement) -> int:
        """The only view shows everything."""
        return 0

    def forward(self, features: VisionFeatures, arrangement: Arrangement) -> Float[Tensor, "M d"]:
        """The tokens of the only view."""
        check_views("layouts/keep-ratio", features.tokens, 1, self.count)
        return features.tokens[0]

    def _scaled(self, size: ImageSize) -> ImageSize:
        height, width = size
        ratio = width / height
        if width >= height and width > self.longest:
            height, width = int(self.longest / ratio), self.longest
        elif height > width and height > self.longest:
            height, width = self.longest, int(self.longest * ratio)
        return max(height, self.shortest), max(width, self.shortest)

    def _whole(self, pixels: int) -> int:
        return pixels // self.patch * self.patch
