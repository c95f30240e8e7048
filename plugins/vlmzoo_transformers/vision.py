"""The vision tower of a transformers model behind the contract: CLIP, SigLIP, DINOv2, ViT and others built of equal blocks.

The blocks, the last norm, the patch grid and the prefix tokens are found by running a copy without values once. A layer is
a block counted from the end, and what is taken is that block's output: nobody has to know which families hide a norm in
`hidden_states[-1]`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, PreTrainedConfig, PreTrainedModel

from vlmzoo_registry import ConfigError, FeatureShape, ImageTransform, VisionEncoder, VisionFeatures, check_pixels
from vlmzoo_transformers.config import VisionConfig
from vlmzoo_transformers.known import known_architecture
from vlmzoo_transformers.pretrained import architecture, torch_dtype, tower_config, written_out
from vlmzoo_transformers.tower import examine

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


class TransformersVisionEncoder(VisionEncoder):
    """A vision tower of transformers; see `VisionEncoder`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        resolved = tower_config(architecture(config))
        size = config.image_size or _square(resolved)
        with torch.device("meta"):
            tower = examine(AutoModel.from_config(resolved), size)
        depth = len(tower.blocks)
        reasons = [
            f"`layers` asks for block {layer}, but `{resolved.model_type}` has {depth} (use -{depth} to -1)"
            for layer in config.layers
            if not -depth <= layer < depth
        ]
        if config.prefix == "keep" and tower.prefix == 0:
            reasons.append(f"`prefix: keep`: `{resolved.model_type}` has no prefix token to keep (use `drop`)")
        if config.final_norm and tower.norm is None:
            reasons.append(f"`final_norm: true`: `{resolved.model_type}` has no norm after its last block (use false)")
        if reasons:
            raise ConfigError("the vision tower cannot be used like this", reasons)

        options: dict[str, Any] = {"dtype": torch_dtype(config.dtype)}
        if config.model is None:
            self.model: PreTrainedModel = AutoModel.from_config(resolved, **options)
        else:
            self.model = AutoModel.from_pretrained(config.model, config=resolved, **options)
        self._tower = tower
        self._taps = [tower.blocks[layer] for layer in config.layers]
        self._final_norm = config.final_norm
        self._keep = config.prefix == "keep"
        self._unused = tower.unused(self._taps, config.final_norm)
        self._shape = FeatureShape(
            width=tower.width * len(config.layers),
            count=tower.grid[0] * tower.grid[1] + (tower.prefix if self._keep else 0),
            grid=tower.grid,
            prefix=tower.prefix if self._keep else 0,
        )
        self._transform = _transform(config, size)

    @classmethod
    def resolve(cls, config: VisionConfig) -> VisionConfig:
        """The same config with the architecture and the pixel statistics written out; reads configuration files, offline."""
        resolved = tower_config(architecture(config, offline=True))
        size = config.image_size or _square(resolved)
        transform = _transform(config, size, offline=True)
        return config.model_copy(
            update={
                "model": None,
                "config": written_out(resolved),
                "image_size": size,
                "mean": transform.mean,
                "std": transform.std,
                "interpolation": transform.interpolation,
                "resize": transform.resize,
            }
        )

    @property
    def output_shape(self) -> FeatureShape:
        """What one image becomes."""
        return self._shape

    @property
    def transform(self) -> ImageTransform:
        """Size, mean and deviation from the config, else from the model's own preprocessor file."""
        return self._transform

    @property
    def unused_parameters(self) -> frozenset[str]:
        """Parameters behind the last tapped block (a pooler, later blocks), which no output depends on."""
        return frozenset(f"model.{name}" for name in self._unused)

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """The modules that one forward calls once each, in order, tokens to tokens."""
        return [self.model.get_submodule(name) for name in self._tower.blocks]

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> VisionFeatures:
        """The outputs of the tapped blocks, concatenated on the channel in the order of `layers`."""
        check_pixels("transformers/vision", pixels, self._transform.height, self._transform.width)
        outputs = self._tower.run(self.model, pixels.to(self.model.dtype), self._taps)
        if self._final_norm:
            assert self._tower.norm is not None
            norm = self.model.get_submodule(self._tower.norm)
            outputs = [norm(output) for output in outputs]
        tokens = torch.cat(outputs, dim=-1)
        if not self._keep:
            tokens = tokens[:, self._tower.prefix :]
        return VisionFeatures(tokens=tokens, grid=self._tower.grid, prefix=self._shape.prefix)


def _square(config: PreTrainedConfig) -> int:
    size = config.to_dict().get("image_size")
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise ConfigError(f"`{config.model_type}` has no square `image_size` (={size!r}): set `image_size` to pixels per side")
    return size


def _transform(config: VisionConfig, size: int, *, offline: bool = False) -> ImageTransform:
    """What the config says, else the model's own preprocessor file, else ImageNet's statistics for a random tower."""
    own: dict[str, Any] = {}
    if config.model is not None:
        try:
            own = AutoImageProcessor.from_pretrained(config.model, trust_remote_code=False).to_dict()
        except (OSError, ValueError) as error:
            known = known_architecture(config.model) if offline else None
            own = {} if known is None else known["image_processor"]
            if not own and (config.mean is None or config.std is None):
                raise ConfigError(
                    f"`model` (={config.model!r}) comes with no image preprocessor file, so its pixel statistics are not "
                    "known: set `mean` and `std` as the model was trained (each three numbers on [0, 1])"
                ) from error
    return ImageTransform(
        height=size,
        width=size,
        mean=config.mean or tuple(own.get("image_mean", _IMAGENET_MEAN)),
        std=config.std or tuple(own.get("image_std", _IMAGENET_STD)),
        interpolation=config.interpolation or _FILTERS[int(own.get("resample", 3))],
        resize=config.resize or ("crop" if own.get("do_center_crop") else "squash"),
        margin="down",
    )
