"""The vision tower of any open_clip model behind the contract: its layers as rows of tokens with known places.

Width, grid and unused parameters are learnt by running a twin without values (meta tensors) once.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_openclip.architecture import Architecture, architecture
from vlmzoo_openclip.config import OpenClipConfig
from vlmzoo_openclip.tower import Taps, Tower, blocks, build, depth, load
from vlmzoo_openclip.transform import image_transform
from vlmzoo_registry import ConfigError, FeatureShape, Grid, ImageTransform, VisionEncoder, VisionFeatures, check_pixels


class OpenClipEncoder(VisionEncoder):
    """An open_clip vision tower, pruned to what is tapped."""

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__()
        described = architecture(config)
        self._transform = image_transform(config, described)
        size = self._transform.size
        with torch.device("meta"), torch.enable_grad():
            twin = build(described, size)
            self._taps = _taps(config, described, twin)
            self._taps.prune(twin)
            tokens, grid, prefix = _examine(self._taps, twin.eval(), described, size)
            used = _used(twin, tokens)
            if config.final_norm:
                plain, _, _ = Taps(self._taps.layers, norm=False).run(twin, torch.empty(1, 3, *size))
                if _used(twin, plain) == used:
                    raise ConfigError(
                        f"`final_norm: true`: {described.label} has no norm for the layers {list(config.layers)} (use false)"
                    )
        if misfit := config.prefix_misfit(prefix, described.label):
            raise ConfigError(misfit)

        self._dropped = 0 if config.prefix == "keep" else prefix
        self._shape = FeatureShape(tokens.shape[2], tokens.shape[1] - self._dropped, grid, prefix - self._dropped)
        self._unused = frozenset(f"tower.{name}" for name, _ in twin.named_parameters()) - {f"tower.{name}" for name in used}
        self.tower = build(described, size) if described.name is None else load(described, size)
        self._taps.prune(self.tower)

    @classmethod
    def resolve(cls, config: OpenClipConfig) -> OpenClipConfig:
        """The same config with architecture and preprocessing written out; reads open_clip's tables or a folder's JSON."""
        described = architecture(config)
        transform = image_transform(config, described)
        return OpenClipConfig(
            config={
                "embed_dim": described.embed_dim,
                "quick_gelu": described.quick_gelu,
                "vision_cfg": described.vision_cfg,
            },
            layers=config.layers,
            final_norm=config.final_norm,
            prefix=config.prefix,
            image_size=transform.size,
            mean=transform.mean,
            std=transform.std,
            interpolation=transform.interpolation,
            resize=transform.resize,
            crop_fraction=None if transform.resize == "pad" else transform.crop_fraction,
        )

    @property
    def output_shape(self) -> FeatureShape:
        """What one image becomes."""
        return self._shape

    @property
    def transform(self) -> ImageTransform:
        """What open_clip records about the weights, where the config does not say otherwise."""
        return self._transform

    @property
    def unused_parameters(self) -> frozenset[str]:
        """Parameters that no output depends on (attention pooling of CoCa), and constants."""
        return self._unused

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """The transformer's blocks, or a ResNet's stages."""
        return blocks(self.tower)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> VisionFeatures:
        """The outputs of the tapped layers, row-major; raises `AssemblyError` for another size than the transform gives."""
        check_pixels("open_clip/encoder", pixels, *self._transform.size)
        tokens, _, _ = self._taps.run(self.tower, pixels)
        return VisionFeatures(tokens[:, self._dropped :], self._shape.grid, self._shape.prefix)


def _taps(config: OpenClipConfig, described: Architecture, tower: Tower) -> Taps:
    layers = depth(tower)
    beyond = [layer for layer in config.layers if not -layers <= layer < layers]
    if beyond:
        raise ConfigError(f"`layers` names {beyond}, and {described.label} has {layers} layers: use {-layers} to -1")
    return Taps(tuple(layer % layers for layer in config.layers), norm=config.final_norm)


def _examine(taps: Taps, tower: Tower, described: Architecture, size: Grid) -> tuple[Tensor, Grid, int]:
    """One image without values through a tower on the meta device."""
    try:
        return taps.run(tower, torch.empty(1, 3, *size))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{described.label} cannot give these layers of an image of {size[0]}x{size[1]} pixels: "
            f"{error or type(error).__name__}"
        ) from error


def _used(tower: Tower, output: Tensor) -> set[str]:
    """The names of the parameters that this output depends on, but for constants (position embeddings of sines)."""
    trainable = {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(output.sum(), list(trainable.values()), allow_unused=True, retain_graph=True)
    return {name for name, gradient in zip(trainable, gradients, strict=True) if gradient is not None}
