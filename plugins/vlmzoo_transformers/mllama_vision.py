"""The vision tower of Llama 3.2 Vision (arXiv:2407.21783, section 7.1): a local and a global encoder, five layers tapped.

A view is a canvas of tiles, which attend to each other; the tower runs with its other tiles empty, as transformers does.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import MllamaVisionModel

from vlmzoo_registry import (
    AssemblyError,
    ConfigError,
    FeatureShape,
    Grid,
    ImageTransform,
    VisionEncoder,
    VisionFeatures,
    check_pixels,
)
from vlmzoo_registry.compat.transformers import from_config
from vlmzoo_transformers.config import MllamaVisionConfig
from vlmzoo_transformers.pretrained import architecture, torch_dtype, tower_config, written_out
from vlmzoo_transformers.tower_weights import load_tower


class MllamaVisionEncoder(VisionEncoder):
    """`MllamaVisionModel` of transformers; tokens are the final output and the tapped layers, one after the other."""

    def __init__(self, config: MllamaVisionConfig) -> None:
        super().__init__()
        resolved = tower_config(architecture(config))
        if resolved.model_type != MllamaVisionModel.config_class.model_type:
            raise ConfigError(
                f"`transformers/mllama-vision` is the tower of Llama 3.2 Vision (`mllama_vision_model`), not of "
                f"`{resolved.model_type}`: use `transformers/vision`"
            )
        options: dict[str, Any] = {"dtype": torch_dtype(config.dtype)}
        if config.model is None:
            self.model = from_config(MllamaVisionModel, resolved, **options)
        else:
            self.model = load_tower(MllamaVisionModel, config.model, resolved, unused=frozenset(), **options)
        side = resolved.image_size // resolved.patch_size
        self._size = resolved.image_size
        self._tiles = resolved.max_num_tiles
        self._canvases = [(rows, columns) for rows, columns in resolved.supported_aspect_ratios]
        self._keep = config.prefix == "keep"
        prefix = 1 if self._keep else 0
        self._shape = FeatureShape(
            width=resolved.hidden_size * (1 + len(resolved.intermediate_layers_indices)),
            count=side * side + prefix,
            grid=(side, side),
            prefix=prefix,
        )

    @classmethod
    def resolve(cls, config: MllamaVisionConfig) -> MllamaVisionConfig:
        """The same config with the architecture written out; reads `config.json`, offline."""
        written = written_out(tower_config(architecture(config, offline=True)))
        return config.model_copy(update={"model": None, "config": written})

    @property
    def output_shape(self) -> FeatureShape:
        """What one image becomes."""
        return self._shape

    @property
    def transform(self) -> ImageTransform:
        """One tile, padded to a square, with CLIP's statistics, which the published models were trained with.

        (They saw the image at the top left, and black around it; that and canvases of several tiles is `layouts/canvas`.)
        """
        return ImageTransform(
            height=self._size,
            width=self._size,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
            interpolation="bilinear",
            resize="pad",
        )

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """Those of the local encoder, then those of the global one."""
        return [*self.model.transformer.layers, *self.model.global_transformer.layers]

    def shape_at(self, size: Grid) -> FeatureShape:
        """What a canvas of rows x columns tiles becomes: the tokens of its tiles one after the other, each tile's class token
        (where it is kept) before its patches; of several tiles they have no common grid.

        Raises `AssemblyError` for a canvas that is not among the architecture's `supported_aspect_ratios`.
        """
        if size == (self._size, self._size):
            return self._shape
        rows, columns = self._canvas(size)
        return FeatureShape(width=self._shape.width, count=rows * columns * self._shape.count, grid=None)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> VisionFeatures:
        """Encode a batch of canvases of one size; raises `AssemblyError` for a size that is no canvas."""
        size = (pixels.shape[-2], pixels.shape[-1]) if pixels.ndim == 4 else (self._size, self._size)
        check_pixels("transformers/mllama-vision", pixels, *size)
        rows, columns = self._canvas(size)
        images, shown = len(pixels), rows * columns
        cut = pixels.reshape(images, 3, rows, self._size, columns, self._size).permute(0, 2, 4, 1, 3, 5)
        tiles = pixels.new_zeros(images, 1, self._tiles, 3, self._size, self._size)
        tiles[:, 0, :shown] = cut.reshape(images, shown, 3, self._size, self._size)
        mask = torch.zeros(images, 1, self._tiles, dtype=torch.long, device=pixels.device)
        mask[:, :, :shown] = 1
        # Ratios count from 1; 0 is no image.
        ratio = torch.full((images, 1), 1 + self._canvases.index((rows, columns)), dtype=torch.long, device=pixels.device)
        output = self.model(pixel_values=tiles, aspect_ratio_ids=ratio, aspect_ratio_mask=mask).last_hidden_state
        tokens = output[:, 0, :shown]  # [B, T, 1 + h*w, D]: of the one image, the tiles that show something
        if not self._keep:
            tokens = tokens[:, :, 1:]
        shape = self.shape_at(size)
        return VisionFeatures(tokens=tokens.flatten(1, 2), grid=shape.grid, prefix=shape.prefix)

    def _canvas(self, size: Grid) -> Grid:
        """Rows and columns of tiles."""
        canvas = (size[0] // self._size, size[1] // self._size)
        if (canvas[0] * self._size, canvas[1] * self._size) != size or canvas not in self._canvases:
            known = ", ".join(f"{rows}x{columns}" for rows, columns in self._canvases)
            raise AssemblyError(
                f"`transformers/mllama-vision` cannot take views of {size[0]}x{size[1]} pixels: its canvases are {known} tiles "
                f"of {self._size}x{self._size}"
            )
        return canvas
