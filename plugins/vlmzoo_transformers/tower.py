"""What is inside a vision tower, found by running a copy of it that carries no values.

The layers are the modules called once each, in order: blocks that map tokens to tokens, or stages that map feature maps to
smaller ones. The last norm is what is called on their output; the first convolution tells the grid of tokens; what a backward
pass does not reach is unused.
"""

import inspect
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from math import isqrt
from threading import RLock
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vlmzoo_registry import AssemblyError, ConfigError, FeatureShape, Grid
from vlmzoo_registry.compat.torch import BATCH_NORM
from vlmzoo_registry.compat.transformers import attention_implementation, from_config
from vlmzoo_transformers.patches import Patches
from vlmzoo_transformers.trace import Call, find_layers, first_tensor, record_calls
from vlmzoo_transformers.without_values import for_pixels

_NEEDS = (
    "is not built of equal blocks of tokens after one patch convolution, nor of stages of feature maps, which "
    "`transformers/vision` needs; `timm/encoder` takes other builds too"
)


Maps = Literal["channels first", "channels last"]

# The models of one architecture share a twin, and what watches its calls must not see those of another thread.
_ALONE = RLock()


@dataclass(frozen=True)
class Layers:
    """What the layers of a tower give for one image of some size: their widths, their grids, and the tokens before the grid."""

    widths: tuple[int, ...]
    grids: tuple[Grid, ...]
    prefix: int


@dataclass(frozen=True)
class Tower:
    """The structure of one tower; names are those of its submodules.

    `native` is the size (height, width) its architecture is made for. `maps`: the layers give feature maps, [B, C, h, w] or
    [B, h, w, C], not tokens [B, N, D]. `packed`: it joins the images of a batch into one row of tokens, so that they
    are run one by one here. `patches`: it takes patches instead of an image.
    """

    twin: PreTrainedModel
    native: Grid
    blocks: tuple[str, ...]
    norm: str | None
    maps: Maps | None
    packed: bool
    patches: Patches | None
    stride: tuple[int, int]
    _measured: dict[Grid, Layers] = field(default_factory=dict)
    _unused: dict[tuple[tuple[str, ...], bool], frozenset[str]] = field(default_factory=dict)

    def measure(self, size: Grid) -> Layers:
        """What the layers give at this size (height, width).

        Raises `AssemblyError` for a size that the tower cannot take or would cut.
        """
        if size not in self._measured:
            family = self.twin.config.model_type
            if size != self.native and (size[0] % self.stride[0] or size[1] % self.stride[1]):
                raise AssemblyError(
                    f"`{family}` cannot take views of {size[0]}x{size[1]} pixels whole: both sides must be multiples of "
                    f"{self.stride[0]}x{self.stride[1]}, the pixels of one token"
                )
            try:
                # A model may meet a new size while it generates; questions to tensors go past a dispatch mode there.
                with torch.inference_mode(False), _ALONE:
                    self._measured[size] = self._measure(size)
            except Exception as error:  # the classes of transformers raise whatever they like
                raise AssemblyError(
                    f"`{family}`, made for {self.native[0]}x{self.native[1]} pixels, cannot take views of "
                    f"{size[0]}x{size[1]}: {error or type(error).__name__}"
                ) from error
        return self._measured[size]

    def shape(self, size: Grid, layers: Sequence[int], *, keep_prefix: bool) -> FeatureShape:
        """The features of one image when these layers are joined on the channel."""
        found = self.measure(size)
        rows, columns = found.grids[layers[0]]
        prefix = found.prefix if keep_prefix else 0
        return FeatureShape(sum(found.widths[layer] for layer in layers), prefix + rows * columns, (rows, columns), prefix)

    def run(self, model: nn.Module, pixels: Float[Tensor, "B 3 H W"], taps: Sequence[str]) -> list[Float[Tensor, "B N D"]]:
        """Run the tower and return the outputs of the tapped layers as rows of tokens, in the order asked for."""
        if self.packed and len(pixels) > 1:
            single = [self.run(model, image[None], taps) for image in pixels]
            return [torch.cat(outputs) for outputs in zip(*single, strict=True)]
        outputs: dict[str, Tensor] = {}

        def tap(name: str) -> Any:
            def keep(module: nn.Module, args: Any, output: Any) -> None:
                outputs[name] = first_tensor(output)

            return keep

        handles = [model.get_submodule(name).register_forward_hook(tap(name)) for name in dict.fromkeys(taps)]
        try:
            with for_pixels(pixels):
                model(**self.inputs(pixels))
        finally:
            for handle in handles:
                handle.remove()
        if self.maps == "channels first":
            return [outputs[name].flatten(2).transpose(1, 2) for name in taps]  # [B, C, h, w] -> [B, h*w, C]
        if self.maps == "channels last":
            return [outputs[name].flatten(1, 2) for name in taps]  # [B, h, w, C] -> [B, h*w, C]
        return [outputs[name] for name in taps]

    def inputs(self, pixels: Float[Tensor, "B 3 H W"]) -> dict[str, Any]:
        """What the tower is called with; away from its native size its own interpolation of positions is asked for."""
        if self.patches is not None:
            return self.patches.inputs(pixels)
        size = (pixels.shape[2], pixels.shape[3])
        options = {"interpolate_pos_encoding": True} if size != self.native and _interpolates(self.twin) else {}
        return {"pixel_values": pixels, **options}

    def unused(self, taps: Sequence[str], final_norm: bool) -> frozenset[str]:
        """The parameters that no tapped output depends on, found by a backward pass without values, and constants."""
        asked = (tuple(taps), final_norm)
        if asked not in self._unused:
            with _ALONE:
                self._unused[asked] = self._find_unused(taps, final_norm)
        return self._unused[asked]

    def _find_unused(self, taps: Sequence[str], final_norm: bool) -> frozenset[str]:
        pixels = torch.zeros(1, 3, *self.native, device="meta")
        parameters = {name: parameter for name, parameter in self.twin.named_parameters() if parameter.requires_grad}
        with torch.enable_grad():
            outputs = self.run(self.twin, pixels, taps)
            if final_norm:
                assert self.norm is not None
                outputs = [self.twin.get_submodule(self.norm)(output) for output in outputs]
            total = torch.stack([output.sum() for output in outputs]).sum()
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        used = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        return frozenset(name for name, _ in self.twin.named_parameters() if name not in used)

    def check_places(self, model: PreTrainedModel) -> None:
        """Make sure that tokens are where they are declared to be: the prefix first, then the patches row by row.

        Two patches of an image are changed in turn; of the tokens that enter the first block, theirs must be the ones that
        change. Raises `ConfigError` for a tower that has tokens elsewhere (behind the patches), or that shuffles them.
        """
        if self.maps:
            return
        layers = self.measure(self.native)
        rows, columns = layers.grids[0]
        high, wide = self.native[0] // rows, self.native[1] // columns
        draw = torch.Generator().manual_seed(0)
        image = torch.randn(3, *self.native, generator=draw)
        other = torch.randn(3, high, wide, generator=draw)
        places = [(0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1)]
        changed = [image.clone() for _ in places]
        for picture, (row, column) in zip(changed, places, strict=True):
            picture[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide] = other
        training = model.training
        model.eval()
        try:
            first, again, *moved = (self._entering(model, picture[None]) for picture in (image, image, *changed))
        finally:
            model.train(training)
        family = model.config.model_type
        if not torch.equal(first, again):
            raise ConfigError(
                f"`{family}` draws random numbers while it encodes (masked pre-training, usually), so that its tokens have no "
                "places: load its weights as the architecture it was made from (of MAE, `model_type: vit`)"
            )
        for tokens, (row, column) in zip(moved, places, strict=True):
            found = int((tokens - first).abs().amax(dim=-1).argmax())
            wanted = layers.prefix + row * columns + column
            if found != wanted:
                raise ConfigError(
                    f"`{family}` has the patch of row {row}, column {column} at token {found}, not at {wanted} where "
                    f"{layers.prefix} leading tokens and {rows}x{columns} patches row by row would have it; tokens of another "
                    "order cannot be used here"
                )

    def _entering(self, model: PreTrainedModel, pixels: Tensor) -> Float[Tensor, "N D"]:
        """The tokens of one image that enter the first block; the blocks are not run."""
        reached: list[Tensor | None] = []

        def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            reached.append(first_tensor(args) if args else kwargs.get("hidden_states"))
            raise _Reached

        handle = model.get_submodule(self.blocks[0]).register_forward_pre_hook(stop, with_kwargs=True)
        parameter = next(model.parameters())
        try:
            with torch.no_grad():
                model(**self.inputs(pixels.to(parameter.device, parameter.dtype)))
        except _Reached:
            pass
        finally:
            handle.remove()
        (tokens,) = reached
        assert tokens is not None
        return tokens[0].float()

    def _measure(self, size: Grid) -> Layers:
        pixels = torch.zeros(1, 3, *size, device="meta")
        with torch.no_grad(), for_pixels(pixels):
            calls = record_calls(self.twin, lambda: self.twin(**self.inputs(pixels)))
        outputs = {call.name: call.output for call in calls}
        shapes = [outputs[name] or () for name in self.blocks]
        if self.maps == "channels first":
            return Layers(tuple(shape[1] for shape in shapes), tuple((shape[2], shape[3]) for shape in shapes), 0)
        if self.maps == "channels last":
            return Layers(tuple(shape[3] for shape in shapes), tuple((shape[1], shape[2]) for shape in shapes), 0)
        grid = _patch_grid(self.twin, calls, size, self.patches)
        assert grid is not None
        prefix = shapes[-1][1] - grid[0] * grid[1]
        if prefix < 0:
            raise ConfigError(
                f"it gives {shapes[-1][1]} tokens for {grid[0]}x{grid[1]} patches, so that not every patch has its token (of "
                "masked pre-training, load the weights as the architecture they were made with: of MAE, `model_type: vit`)"
            )
        return Layers(tuple(shape[2] for shape in shapes), (grid,) * len(shapes), prefix)


class _Reached(Exception):
    """The first block was reached."""


@dataclass(frozen=True)
class _Described:
    """All that the structure of a tower depends on: its class, every field of its config, and the size it is asked at."""

    made: type[PreTrainedModel]
    fields: str
    size: Grid
    config: PreTrainedConfig = field(compare=False)


def tower_of(made: type[PreTrainedModel], config: PreTrainedConfig, native: Grid) -> Tower:
    """The structure of a tower of this class and config. Examined once in a process, as no weight has a part in it.

    Raises as `build_tower` and `examine` do.
    """
    fields = f"{config.to_json_string(use_diff=False)} {attention_implementation(config)}"
    return _tower_of(_Described(made, fields, native, config))


@lru_cache(maxsize=32)
def _tower_of(described: _Described) -> Tower:
    with torch.device("meta"):
        return examine(build_tower(described.made, deepcopy(described.config)), described.size)


def build_tower(made: type[PreTrainedModel], config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """A tower with random weights; raises `ConfigError` for a config that its class does not take."""
    try:
        return from_config(made, config, **options)
    except Exception as error:  # the classes of transformers raise whatever they like
        raise ConfigError(f"transformers cannot build `{config.model_type}` from this config: {error}") from error


def examine(twin: PreTrainedModel, native: Grid) -> Tower:
    """The structure of a tower on the meta device, at the size (height, width) that its architecture is made for.

    Raises `ConfigError` where it is neither built of equal blocks that map tokens to tokens, nor of stages of feature maps.
    """
    twin.eval()
    family = twin.config.model_type
    patches = Patches(twin.config.patch_size) if Patches.taken_by(twin) else None
    two = torch.zeros(2, 3, *native, device="meta")
    try:
        with torch.no_grad(), for_pixels(two):
            calls = record_calls(twin, lambda: twin(**({"pixel_values": two} if patches is None else patches.inputs(two))))
    except Exception as error:  # the classes of transformers raise whatever they like
        more = [] if patches is not None else _needed_besides_pixels(twin)
        why = f"it needs {', '.join(more)} too" if more else (str(error) or repr(error)).splitlines()[0]
        raise ConfigError(
            f"`{family}` does not run on pixels [images, 3, {native[0]}, {native[1]}] alone, which `transformers/vision` "
            f"needs: {why}"
        ) from error

    widths = {call.output[-1] for call in calls if call.output is not None and len(call.output) == 3}
    blocks_of_tokens = [path for width in sorted(widths) if (path := find_layers(twin, calls, width)) is not None]
    stages = _find_stages(twin, calls)
    if stages is not None:  # blocks inside of stages are no layers of the tower
        blocks_of_tokens = [path for path in blocks_of_tokens if not path.startswith(f"{stages}.")]
    path = blocks_of_tokens[0] if len(blocks_of_tokens) == 1 else stages
    if path is None:
        raise ConfigError(f"`{family}` {_NEEDS}")
    blocks = tuple(f"{path}.{index}" for index in range(len(twin.get_submodule(path))))
    last = [call.name for call in calls].index(blocks[-1])
    output = calls[last].output
    assert output is not None
    maps = _channels(output, native) if path == stages else None
    width, grid = {
        None: (output[-1], _patch_grid(twin, calls, native, patches)),
        "channels first": (output[1], output[2:]),
        "channels last": (output[-1], output[1:3]),
    }[maps]
    if grid is None or (maps is None and path == stages):
        raise ConfigError(f"`{family}` {_NEEDS}")
    norm = next((call.name for call in calls[last + 1 :] if _is_norm(twin.get_submodule(call.name), width)), None)
    tower = Tower(
        twin,
        native,
        blocks,
        norm,
        maps=maps,
        packed=maps is None and output[0] == 1,
        patches=patches,
        stride=(native[0] // grid[0], native[1] // grid[1]),
    )
    try:
        tower.measure(native)
    except AssemblyError as error:
        raise ConfigError(f"`{family}` cannot be used by `transformers/vision`: {error}") from error
    return tower


def native_size(config: Any) -> Grid | None:
    """The size (height, width) that an architecture is made for; None where its config does not say."""
    fields = config.to_dict()
    size = fields.get("image_size")
    if isinstance(size, list | tuple) and len(size) == 2:
        return (size[0], size[1])
    if isinstance(size, int):
        return (size, size)
    if isinstance(fields.get("num_patches"), int) and isinstance(fields.get("patch_size"), int):
        side = isqrt(fields["num_patches"]) * fields["patch_size"]
        return (side, side)
    return None


def _interpolates(twin: PreTrainedModel) -> bool:
    """Whether the family asks to be told when positions are to be interpolated; others do it, or need not."""
    return "interpolate_pos_encoding" in inspect.signature(twin.forward).parameters


def _needed_besides_pixels(twin: PreTrainedModel) -> list[str]:
    """The arguments without which the tower cannot be called."""
    parameters = inspect.signature(twin.forward).parameters.values()
    return [
        f"`{parameter.name}`"
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.name != "pixel_values"
    ]


def _patch_grid(twin: PreTrainedModel, calls: list[Call], size: Grid, patches: Patches | None) -> Grid | None:
    """Rows and columns of patches: of the first convolution, or, where patches are cut without one, of `patch_size`."""
    if patches is not None:
        return patches.grid(size)
    shape = next((call.output for call in calls if isinstance(twin.get_submodule(call.name), nn.Conv2d)), None)
    if shape is not None:
        return (shape[2], shape[3])
    side = twin.config.to_dict().get("patch_size")
    return (size[0] // side, size[1] // side) if isinstance(side, int) else None


def _channels(shape: tuple[int, ...], size: Grid) -> Maps | None:
    """Where the channels of a map stand: the two other axes have the ratio of the image. None where that tells nothing."""
    high, wide = size
    first = abs(shape[2] * wide - shape[3] * high) < max(size)
    last = abs(shape[1] * wide - shape[2] * high) < max(size)
    if first == last:
        return None
    return "channels first" if first else "channels last"


def _find_stages(model: nn.Module, calls: list[Call]) -> str | None:
    """The name of the outermost `ModuleList` whose children were called once each, in order, and gave feature maps."""
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        children = [f"{name}.{index}" for index in range(len(module))]
        made = [call for call in calls if call.name in set(children)]
        if [call.name for call in made] == children and all(call.output and len(call.output) == 4 for call in made):
            found.append(name)
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found if other != name)]
    return outer[0] if len(outer) == 1 else None


def _is_norm(module: nn.Module, width: int) -> bool:
    """Whether a module is one vector of weights as wide as a token, with or without a bias: a norm over the channel."""
    if isinstance(module, nn.GroupNorm | BATCH_NORM):
        return False  # these norm over the places too
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    return "weight" in shapes and set(shapes) <= {"weight", "bias"} and set(shapes.values()) == {(width,)}
