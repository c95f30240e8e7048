"""The vision tower of Llama 3.2 Vision (arXiv:2407.21783, section 7.1): a local and a global encoder, five layers tapped.

One image is one tile here: the tower runs with its other tiles empty, as transformers does for an image that fills only one.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import MllamaVisionModel

from vlmzoo_registry import ConfigError, FeatureShape, ImageTransform, VisionEncoder, VisionFeatures, check_pixels
from vlmzoo_transformers.config import MllamaVisionConfig
from vlmzoo_transformers.pretrained import architecture, torch_dtype, tower_config, written_out


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
            self.model = MllamaVisionModel._from_config(resolved, **options)
        else:
            self.model = MllamaVisionModel.from_pretrained(config.model, config=resolved, **options)
        side = resolved.image_size // resolved.patch_size
        self._size = resolved.image_size
        self._tiles = resolved.max_num_tiles
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
        """One tile, padded to a square, with CLIP's statistics, which the published models were trained with."""
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

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> VisionFeatures:
        """Encode a batch of images of one tile each."""
        check_pixels("transformers/mllama-vision", pixels, self._size, self._size)
        images = len(pixels)
        tiles = pixels.new_zeros(images, 1, self._tiles, *pixels.shape[1:])
        tiles[:, 0, 0] = pixels
        mask = torch.zeros(images, 1, self._tiles, dtype=torch.long, device=pixels.device)
        mask[:, :, 0] = 1
        ratio = torch.ones(images, 1, dtype=torch.long, device=pixels.device)  # the first supported ratio, 1x1
        output = self.model(pixel_values=tiles, aspect_ratio_ids=ratio, aspect_ratio_mask=mask).last_hidden_state
        tokens = output[:, 0, 0]  # [B, 1 + h*w, D]: of the one image, the one tile
        return VisionFeatures(tokens=tokens if self._keep else tokens[:, 1:], grid=self._shape.grid, prefix=self._shape.prefix)
