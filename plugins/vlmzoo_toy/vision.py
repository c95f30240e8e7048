"""A vision transformer (arXiv:2010.11929) small enough to read and to run in a test: patches, blocks, a final norm."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vlmzoo_registry import AssemblyError, FeatureShape, Grid, ImageTransform, VisionEncoder, VisionFeatures, check_pixels
from vlmzoo_toy.config import ToyVisionConfig


class _Block(nn.Module):
    """Pre-norm attention of every token to every token, then a feed-forward; both residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feedforward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        projected = self.query_key_value(self.attention_norm(tokens)).unflatten(2, (3, self.heads, -1))  # B N 3 heads w
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)  # B heads N w
        attended = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)  # B N D
        tokens = tokens + self.output(attended)
        return tokens + self.feedforward(self.feedforward_norm(tokens))


class ToyVision(VisionEncoder):
    """Patches with learned positions, after a class token where asked for. Blocks past the last tapped layer are not built."""

    def __init__(self, config: ToyVisionConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image_size // config.patch
        self._tapped = [layer % config.depth for layer in config.layers]
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, config.width)) if config.class_token else None
        self.positions = nn.Parameter(0.02 * torch.randn(side * side + config.class_token, config.width))
        self.blocks = nn.ModuleList(_Block(config.width, config.heads) for _ in range(max(self._tapped) + 1))
        self.norm = nn.LayerNorm(config.width) if config.final_norm else nn.Identity()

    @classmethod
    def resolve(cls, config: ToyVisionConfig) -> ToyVisionConfig:
        """The config itself: it names no pretrained weights."""
        return config

    @property
    def output_shape(self) -> FeatureShape:
        """One token for each patch, and the class token where it is kept."""
        return self.shape_at((self.config.image_size, self.config.image_size))

    def shape_at(self, size: tuple[int, int]) -> FeatureShape:
        """The same for a view of any size in whole patches; raises `AssemblyError` for another."""
        patch = self.config.patch
        if min(size) < patch or size[0] % patch or size[1] % patch:
            raise AssemblyError(
                f"`toy/vision` takes views whose sides are multiples of `patch` (={patch}), not {size[0]}x{size[1]}"
            )
        rows, columns = size[0] // patch, size[1] // patch
        prefix = int(self.config.class_token and self.config.prefix == "keep")
        width = self.config.width * len(self._tapped)
        return FeatureShape(width=width, count=rows * columns + prefix, grid=(rows, columns), prefix=prefix)

    @property
    def transform(self) -> ImageTransform:
        """Squashed to the size of the config, scaled to [-1, 1]."""
        size = self.config.image_size
        return ImageTransform(size, size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear")

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """The blocks, up to the last tapped one."""
        return list(self.blocks)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> VisionFeatures:
        """Encode a batch of transformed images."""
        own = self.config.image_size
        size = (pixels.shape[2], pixels.shape[3]) if pixels.ndim == 4 else (own, own)
        check_pixels("toy/vision", pixels, *size)
        shape = self.shape_at(size)
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)  # B N D
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)  # B 1+N D
        tokens = tokens + self._positions_at((size[0] // self.config.patch, size[1] // self.config.patch))
        outputs = []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        features = torch.cat([self.norm(outputs[layer]) for layer in self._tapped], dim=2)  # B 1+N len(layers)*D
        return VisionFeatures(features[:, features.shape[1] - shape.count :], shape.grid, shape.prefix)

    def _positions_at(self, grid: Grid) -> Float[Tensor, "N D"]:
        """The learned positions, interpolated to another grid."""
        side = self.config.image_size // self.config.patch
        if grid == (side, side):
            return self.positions
        places = self.positions[int(self.config.class_token) :].unflatten(0, (side, side)).permute(2, 0, 1)[None]
        resized = functional.interpolate(places, grid, mode="bilinear", align_corners=False)[0].flatten(1).T
        return torch.cat([self.positions[: int(self.config.class_token)], resized])
