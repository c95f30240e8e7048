"""Any timm model behind the contract: its intermediate features as rows of tokens with known places.

Width, grid and unused parameters are learnt by running a twin without values (meta tensors) once: timm's own `feature_info`
does not say whether an odd size is rounded up or down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
from vlmzoo_timm.architecture import Architecture, architecture
from vlmzoo_timm.config import TimmConfig
from vlmzoo_timm.taps import Taps, blocks, is_transformer
from vlmzoo_timm.transform import image_transform
from vlmzoo_timm.weights import load_weights


class TimmEncoder(VisionEncoder):
    """A timm model, pruned to what is tapped.

    Pretrained weights are loaded at the size they were trained for; `image_size` then resizes what depends on it
    (position embeddings, windows) with timm's own `set_input_size`.
    """

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        named = architecture(config)
        self._transform = image_transform(config, named)
        self._size = self._transform.size
        with torch.device("meta"), torch.enable_grad():
            described = named.taking_any_size(self._size)
            twin = described.build()
            self._taps = _taps(config, described, twin)
            self._taps.prune(twin)
            _resize(twin, described, self._size)
            self._probe = Probe(twin.eval(), self._taps, described, keep_prefix=config.prefix == "keep")
            tokens, _, prefix = self._probe.run(self._size)
            if config.final_norm:
                _check_norm(tokens, twin, described, self._taps, self._size)
            trainable = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
            gradients = torch.autograd.grad(tokens.sum(), list(trainable.values()), allow_unused=True)
        if misfit := config.prefix_misfit(prefix, f"timm's `{described.name}`"):
            raise ConfigError(misfit)

        self._dropped = 0 if config.prefix == "keep" else prefix
        self._shape = self._probe.shape(self._size)
        used = {name for name, gradient in zip(trainable, gradients, strict=True) if gradient is not None}
        self._unused = frozenset(f"model.{name}" for name, _ in twin.named_parameters() if name not in used)
        self.model = _build(config, described, self._taps)
        _resize(self.model, described, self._size)

    @classmethod
    def resolve(cls, config: TimmConfig) -> TimmConfig:
        """The same config with architecture and preprocessing written out; reads timm's registry or a config.json."""
        described = architecture(config)
        transform = image_transform(config, described)
        return TimmConfig(
            config={"architecture": described.name, **described.arguments},
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

    def shape_at(self, size: Grid) -> FeatureShape:
        """What a view of another size becomes, in models that take any: convolutional ones, and vision transformers that
        resample their position embeddings (timm's `dynamic_img_size`). Others (Swin) raise `AssemblyError`, and so does a
        size whose sides are no multiples of a token's.
        """
        return self._shape if size == self._size else self._probe.shape(size)

    @property
    def transform(self) -> ImageTransform:
        """What timm records about the weights, where the config does not say otherwise."""
        return self._transform

    @property
    def unused_parameters(self) -> frozenset[str]:
        """Parameters that no output depends on and timm cannot prune (norms and convolutions behind the pooling)."""
        return self._unused

    @property
    def encoder_blocks(self) -> Sequence[nn.Module]:
        """The list that timm takes features from, or, where there is none (ResNet), the stages one after the other."""
        return blocks(self.model)

    def forward(self, pixels: Float[Tensor, "B 3 H W"]) -> VisionFeatures:
        """The outputs of the tapped layers, row-major; raises `AssemblyError` for a size that the model does not take."""
        size = (pixels.shape[-2], pixels.shape[-1]) if pixels.ndim == 4 else self._size
        check_pixels("timm/encoder", pixels, *size)
        shape = self.shape_at(size)
        tokens, _, _ = self._taps.run(self.model, pixels)
        return VisionFeatures(tokens[:, self._dropped :], shape.grid, shape.prefix)


@dataclass(frozen=True)
class Probe:
    """A pruned copy of the model without values, which tells what comes out at some size."""

    twin: nn.Module
    taps: Taps
    described: Architecture
    keep_prefix: bool
    _known: dict[Grid, FeatureShape] = field(default_factory=dict)

    def run(self, size: Grid) -> tuple[Tensor, Grid, int]:
        """One image without values through the copy; raises `ConfigError` where it does not go through."""
        return _examine(self.taps, self.twin, self.described, size)

    def shape(self, size: Grid) -> FeatureShape:
        """The features of one image of this size; raises `AssemblyError` for a size that the model cannot take whole."""
        if size not in self._known:
            stride = max(self.twin.feature_info[layer]["reduction"] for layer in self.taps.layers)
            own = self.described.record["input_size"][1:]
            if self._known and (size[0] % stride or size[1] % stride):
                raise AssemblyError(
                    f"timm's `{self.described.name}` cannot take views of {size[0]}x{size[1]} pixels whole: both sides must be "
                    f"multiples of {stride}, the pixels of one token"
                )
            try:
                with torch.device("meta"), torch.no_grad():
                    tokens, grid, prefix = self.run(size)
            except ConfigError as error:
                raise AssemblyError(f"{error} (it is made for {own[0]}x{own[1]})") from error
            dropped = 0 if self.keep_prefix else prefix
            self._known[size] = FeatureShape(tokens.shape[2], tokens.shape[1] - dropped, grid, prefix - dropped)
        return self._known[size]


def _taps(config: TimmConfig, described: Architecture, model: nn.Module) -> Taps:
    depth = len(model.feature_info)
    beyond = [layer for layer in config.layers if not -depth <= layer < depth]
    if beyond:
        raise ConfigError(f"`layers` names {beyond}, and timm's `{described.name}` has {depth} layers: use {-depth} to -1")
    layers = tuple(layer % depth for layer in config.layers)
    transformer = is_transformer(model)
    if config.final_norm and not transformer and layers != (depth - 1,):
        raise ConfigError(
            f"`final_norm: true` with `layers` (={list(config.layers)}): what timm's `{described.name}` has after its last "
            f"layer fits that layer only: use `layers: [-1]`, or `final_norm: false`"
        )
    return Taps(layers, norm=config.final_norm and transformer, features=config.final_norm and not transformer)


def _examine(taps: Taps, model: nn.Module, described: Architecture, size: Grid) -> tuple[Tensor, Grid, int]:
    """One image without values through a model on the meta device."""
    pixels = torch.empty(1, 3, *size)
    try:
        tokens, grid, prefix = taps.run(model, pixels)
        if grid is None:
            image = model.forward_intermediates(pixels, indices=list(taps.layers), intermediates_only=True)[0]
            grid = (image.shape[2], image.shape[3])
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"timm's `{described.name}` cannot encode an image of {size[0]}x{size[1]} pixels: {error or type(error).__name__}"
        ) from error
    if tokens.shape[1] != prefix + grid[0] * grid[1]:
        raise ConfigError(
            f"timm's `{described.name}` gives {tokens.shape[1]} tokens with `final_norm: true`, which are not those of its "
            f"last grid ({prefix} + {grid[0]}x{grid[1]}): set `final_norm: false`"
        )
    return tokens, grid, prefix


def _check_norm(tokens: Tensor, model: nn.Module, described: Architecture, taps: Taps, size: Grid) -> None:
    """Refuse a `final_norm` that does nothing: one through which no further parameter reaches the output."""
    plain, _, _ = Taps(taps.layers, norm=False, features=False).run(model, torch.empty(1, 3, *size))
    parameters = list(model.parameters())
    with_norm, without = (
        [
            gradient is not None
            for gradient in torch.autograd.grad(output.sum(), parameters, allow_unused=True, retain_graph=True)
        ]
        for output in (tokens, plain)
    )
    if with_norm == without:
        raise ConfigError(
            f"`final_norm: true`: timm's `{described.name}` has nothing between its last layer and its pooling (use false)"
        )


def _build(config: TimmConfig, described: Architecture, taps: Taps) -> nn.Module:
    """The model with its weights, pruned."""
    path = Path(config.weights).expanduser() if config.weights else described.folder and described.folder / "model.safetensors"
    if config.model is not None and path is None:
        try:
            model = described.build(pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"timm cannot load the pretrained weights of `{described.name}`: {error}; with `weights` they come from a "
                "safetensors file, with a folder as `model` from there"
            ) from error
        taps.prune(model)
        return model
    model = described.build()
    whole = set(model.state_dict())
    taps.prune(model)
    if path is not None:
        classifier = described.record.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else classifier
        heads = {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}
        load_weights(model, path, dropped=frozenset(whole | heads) - set(model.state_dict()))
    return model


def _resize(model: nn.Module, described: Architecture, size: Grid) -> None:
    """Set up a model of fixed size for another one; convolutional models take any."""
    native = tuple(described.record["input_size"][1:])
    if size == native or not described.record["fixed_input_size"]:
        return
    resize = getattr(model, "set_input_size", None)
    if resize is None:
        raise ConfigError(
            f"`image_size` ({size[0]}x{size[1]}): timm's `{described.name}` is made for {native[0]}x{native[1]} and cannot be "
            "resized: leave `image_size` out"
        )
    resize(img_size=size)
