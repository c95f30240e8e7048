"""The vision tower of a transformers model behind the contract: whatever is built of equal blocks, or of stages of maps.

The layers, the last norm, the patch grid and the prefix tokens are found by running a copy without values once. A layer is
a block (or stage) counted from the end, and what is taken is that block's output: nobody has to know which families hide a
norm in `hidden_states[-1]`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_registry import (
    ConfigError,
    FeatureShape,
    Grid,
    ImageTransform,
    VisionEncoder,
    VisionFeatures,
    check_pixels,
)
from vlmzoo_transformers.config import VisionConfig
from vlmzoo_transformers.preprocessor import image_transform
from vlmzoo_transformers.pretrained import architecture, torch_dtype, tower_config, written_out
from vlmzoo_transformers.tower import Tower, build_tower, native_size, tower_of
from vlmzoo_transformers.tower_class import tower_class
from vlmzoo_transformers.tower_weights import load_tower
from vlmzoo_transformers.trace import on_meta


class TransformersVisionEncoder(VisionEncoder):
    """A vision tower of transformers; see `VisionEncoder`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        resolved = tower_config(architecture(config))
        native = native_size(resolved)
        self._transform = image_transform(config, native)
        size = self._transform.size
        made = tower_class(resolved)
        self._tower = tower_of(made, resolved, native or size)
        self._layers = _layers(config, self._tower)
        self._final_norm = config.final_norm
        self._keep = config.prefix == "keep"
        self._size = size
        self._shape = self._tower.shape(size, self._layers, keep_prefix=self._keep)
        self._taps = [self._tower.blocks[layer] for layer in self._layers]
        self._unused = self._tower.unused(self._taps, config.final_norm)

        options: dict[str, Any] = {"dtype": torch_dtype(config.dtype)}
        if config.model is None:
            self.model = build_tower(made, resolved, **options)
        else:
            self.model = load_tower(made, config.model, resolved, unused=self._unused, **options)
        if not on_meta(self.model):
            self._tower.check_places(self.model)

    @classmethod
    def resolve(cls, config: VisionConfig) -> VisionConfig:
        """The same config with the architecture and the preprocessing written out; reads configuration files, offline."""
        resolved = tower_config(architecture(config, offline=True))
        transform = image_transform(config, native_size(resolved), offline=True)
        square = transform.height == transform.width
        return config.model_copy(
            update={
                "model": None,
                "config": written_out(resolved),
                "image_size": transform.height if square else transform.size,
                "mean": transform.mean,
                "std": transform.std,
                "interpolation": transform.interpolation,
                "resize": transform.resize,
                "crop_fraction": None if transform.resize == "pad" else transform.crop_fraction,
            }
        )

    @property
    def output_shape(self) -> FeatureShape:
        """What one image becomes."""
        return self._shape

    def shape_at(self, size: Grid) -> FeatureShape:
        """What a view of another size becomes; the tower interpolates its positions, or computes them (Pixtral, Idefics2).

        Raises `AssemblyError` for a size that the tower cannot take, or whose sides are no multiples of a token's.
        """
        if size == self._size:
            return self._shape
        return self._tower.shape(size, self._layers, keep_prefix=self._keep)

    @property
    def transform(self) -> ImageTransform:
        """What the config says, else the model's own preprocessor file."""
        return self._transform

    @property
    def unused_parameters(self) -> frozenset[str]:
        """Parameters behind the last tapped block (a pooler, later blocks), which no output depends on."""
        return frozenset(f"model.{name}" for name in self._unused)

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """The modules that one forward calls once each, in order."""
        return [self.model.get_submodule(name) for name in self._tower.blocks]

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> VisionFeatures:
        """The outputs of the tapped blocks, concatenated on the channel in the order of `layers`."""
        size = (pixels.shape[-2], pixels.shape[-1]) if pixels.ndim == 4 else self._size
        check_pixels("transformers/vision", pixels, *size)
        shape = self.shape_at(size)
        outputs = self._tower.run(self.model, pixels.to(self.model.dtype), self._taps)
        if self._final_norm:
            assert self._tower.norm is not None
            norm = self.model.get_submodule(self._tower.norm)
            outputs = [norm(output) for output in outputs]
        tokens = torch.cat(outputs, dim=-1)
        if not self._keep:
            tokens = tokens[:, tokens.shape[1] - shape.count :]
        return VisionFeatures(tokens=tokens, grid=shape.grid, prefix=shape.prefix)


def _layers(config: VisionConfig, tower: Tower) -> list[int]:
    """The tapped layers, counted from 0.

    Raises `ConfigError` with every reason why this tower cannot be used as the config says.
    """
    family = tower.twin.config.model_type
    depth = len(tower.blocks)
    found = tower.measure(tower.native)
    reasons = [
        f"`layers` asks for block {layer}, but `{family}` has {depth} (use -{depth} to -1)"
        for layer in config.layers
        if not -depth <= layer < depth
    ]
    layers = [layer % depth for layer in config.layers if -depth <= layer < depth]
    if len({found.grids[layer] for layer in layers}) > 1:
        named = ", ".join(f"layer {layer} {found.grids[layer][0]}x{found.grids[layer][1]}" for layer in layers)
        reasons.append(f"`layers` of different grids cannot be concatenated: {named}; take layers of one grid")
    if misfit := config.prefix_misfit(found.prefix, f"`{family}`"):
        reasons.append(misfit)
    if config.final_norm and tower.norm is None:
        reasons.append(f"`final_norm: true`: `{family}` has no norm after its last block (use false)")
    elif config.final_norm and any(found.widths[layer] != found.widths[-1] for layer in layers):
        widths = ", ".join(f"layer {layer} {found.widths[layer]}" for layer in layers)
        reasons.append(
            f"`final_norm: true`: the last norm of `{family}` is for a width of {found.widths[-1]}, not for {widths}: take the "
            "last layer, or set `final_norm: false`"
        )
    if reasons:
        raise ConfigError("the vision tower cannot be used like this", reasons)
    return layers
