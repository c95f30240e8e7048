"""The contract of a vision encoder: pixels in, tokens with known places out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.features import FeatureShape, Grid


@dataclass(frozen=True)
class VisionFeatures:
    """The tokens of a batch of images: `prefix` tokens without a place first, then `grid` in row-major order."""

    tokens: Float[Tensor, "B N D"]
    grid: Grid | None
    prefix: int = 0

    @property
    def shape(self) -> FeatureShape:
        """The shape of one image's features, as it came out."""
        return FeatureShape(width=self.tokens.shape[2], count=self.tokens.shape[1], grid=self.grid, prefix=self.prefix)


@dataclass(frozen=True)
class ImageTransform:
    """From an image to the pixels its encoder was trained on.

    `resize`: "squash" ignores the aspect ratio, "crop" scales the shorter side; both to the target divided by `crop_fraction`,
    and cut the centre. "pad" fills the image up to the ratio of the target with the mean colour, then scales it
    (LLaVA-1.5). `mean` and `std` are per channel, on the scale [0, 1]. `interpolation` is a Pillow filter. `margin` says where
    half a pixel goes when the centre is cut: to the even side, as torchvision (so timm and open_clip) has it, or away, as
    transformers has it.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    resize: Literal["squash", "crop", "pad"] = "squash"
    crop_fraction: float = 1.0
    margin: Literal["even", "down"] = "even"

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        return self.height, self.width

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """Transform one RGB image; deterministic."""
        if image.mode != "RGB":
            raise ValueError(f"`image` must be in mode RGB (is {image.mode}): convert it where it is read")
        resample = Image.Resampling[self.interpolation.upper()]
        if self.resize in ("squash", "crop"):
            # Sizes are rounded down, as torchvision does it, which timm, open_clip and transformers call.
            wide, high = floor(self.width / self.crop_fraction), floor(self.height / self.crop_fraction)
            if self.resize == "squash":
                size = (wide, high)
            elif wide * image.height >= high * image.width:
                size = (wide, image.height * wide // image.width)
            else:
                size = (image.width * high // image.height, high)
            halve = round if self.margin == "even" else floor
            left, top = halve((size[0] - self.width) / 2), halve((size[1] - self.height) / 2)
            image = image.resize(size, resample).crop((left, top, left + self.width, top + self.height))
        else:
            # Padded first, then scaled, with the colour rounded down: so LLaVA's encoder saw it.
            wide = max(image.width, ceil(image.height * self.width / self.height))
            high = max(image.height, ceil(image.width * self.height / self.width))
            canvas = Image.new("RGB", (wide, high), tuple(int(255 * channel) for channel in self.mean))
            canvas.paste(image, ((wide - image.width) // 2, (high - image.height) // 2))
            image = canvas.resize((self.width, self.height), resample)
        return self.normalised(image)

    def resized(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """An image at another size (height, width), its ratio not kept; with the filter the encoder was trained on."""
        return image.resize((size[1], size[0]), Image.Resampling[self.interpolation.upper()])

    def normalised(self, image: Image.Image) -> Float[Tensor, "C H W"]:
        """The pixels of a view that has its size already: scaled to [0, 1], then mean and deviation."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).to(torch.float32) / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


class VisionEncoder(nn.Module, ABC):
    """Implement this to bring a vision encoder.

    The factory of a `vision_encoder` component is a class derived from this one, constructed as `factory(config)`. With a
    config that names pretrained weights it loads them; with one that describes an architecture it starts at random, and then
    it must also build under `torch.device("meta")`.

    Every encoder's config has `layers` (which blocks are tapped, negative from the end; several are concatenated on the
    channel), `final_norm` (whether the encoder's last norm is applied: "layer -1" is ambiguous without it) and `prefix`
    ("drop" or "keep" the leading tokens that are not patches), where the architecture has such a choice at all.
    """

    @classmethod
    @abstractmethod
    def resolve(cls, config: ComponentConfig) -> ComponentConfig:
        """The same config with the architecture written out: what rebuilds this encoder with no pretrained id.

        Reads at most a configuration file, never weights, never the network. Raises `ConfigError` where the architecture is
        not known offline.
        """

    @property
    @abstractmethod
    def output_shape(self) -> FeatureShape:
        """What `forward` returns for one image of the size its transform gives; checked against what comes out."""

    def shape_at(self, size: tuple[int, int]) -> FeatureShape:
        """What `forward` returns for a view of this size (height, width) in pixels.

        Default: the size of the transform is the only one. Raises `AssemblyError` for a size that the encoder cannot take.
        """
        own = self.transform.size
        if size != own:
            raise AssemblyError(
                f"`{type(self).__name__}` takes views of {own[0]}x{own[1]} pixels, not {size[0]}x{size[1]}: use a layout whose "
                "views have its size, or an encoder that takes any"
            )
        return self.output_shape

    @property
    @abstractmethod
    def transform(self) -> ImageTransform:
        """The preprocessing this encoder was trained with; a property of the encoder, never of the trainer."""

    @property
    def unused_parameters(self) -> frozenset[str]:
        """Names of parameters that never train: no output depends on them (a pooler, blocks past the last tapped one), or
        they are constants (position embeddings of sines).
        """
        return frozenset()

    @property
    def idle_parameters(self) -> frozenset[str]:
        """Names of parameters that train, but may go many steps without a gradient (experts that no token chose).

        Training stops where another parameter has no gradient in the first steps.
        """
        return frozenset()

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """The blocks of equal rank that an image runs through, in order: what the mode `last` counts from the end.

        Those past the last tapped one may be among them; their parameters are `unused_parameters`, and they are not counted.
        The default raises `AssemblyError`: an encoder that names no blocks trains in full, or its norms or biases do.
        """
        raise AssemblyError(
            f"`{type(self).__name__}` names no `encoder_blocks`, which `mode: last` counts and `mode: lora` adapts: train it "
            "with `mode: full`, or let its class say `encoder_blocks`"
        )

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "B C H W"]) -> VisionFeatures:
        """Encode a batch of transformed images, all of one size. C is 3 for every encoder that sees one picture per image."""
