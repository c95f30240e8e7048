"""open_clip's three kinds of vision tower: built, pruned, and read out layer by layer.

open_clip has no public way to build a vision tower alone, so the smallest text tower is made beside it and dropped.
"""

import inspect
from dataclasses import dataclass

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_openclip.architecture import Architecture
from vlmzoo_registry import AssemblyError, CheckpointError, ConfigError, Grid
from vlmzoo_registry.compat.open_clip import ModifiedResNet, TimmModel, VisionTransformer

Tower = VisionTransformer | TimmModel | ModifiedResNet

_RESNET_LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")


def build(architecture: Architecture, size: Grid) -> Tower:
    """The tower with random weights, for images of this size.

    Raises `ConfigError` for a `vision_cfg` that open_clip does not take.
    """
    vision = dict(architecture.vision_cfg)
    if architecture.is_transformer:
        vision["image_size"] = size
    text = open_clip.CLIPTextCfg(context_length=1, vocab_size=1, width=8, heads=1, layers=1)
    try:
        clip = open_clip.CLIP(
            architecture.embed_dim, open_clip.CLIPVisionCfg(**vision), text, quick_gelu=architecture.quick_gelu
        )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"open_clip cannot build {architecture.label} from its `vision_cfg`: {error}") from error
    tower: Tower = clip.visual
    if isinstance(tower, TimmModel) and size != architecture.native_size:
        tower.set_input_size(size)
    return tower


def load(architecture: Architecture, size: Grid) -> Tower:
    """The tower with its pretrained weights, which open_clip resizes for images of this size.

    Raises `CheckpointError` where open_clip cannot load them.
    """
    assert architecture.name is not None
    # A ResNet takes any size; only its pooling, which is dropped, is made for one.
    resized = size != architecture.native_size and (architecture.is_transformer or "timm_model_name" in architecture.vision_cfg)
    try:
        clip = open_clip.create_model(
            architecture.name,
            pretrained=architecture.pretrained,
            force_image_size=size if resized else None,
            force_patch_dropout=0.0,
            require_pretrained=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        source = f" from `{architecture.pretrained}`" if architecture.pretrained else ""
        raise CheckpointError(f"open_clip cannot load the weights of {architecture.label}{source}: {error}") from error
    tower: Tower = clip.visual
    return tower


def depth(tower: Tower) -> int:
    """How many layers can be taken."""
    match tower:
        case VisionTransformer():
            return len(tower.transformer.resblocks)
        case TimmModel():
            return len(tower.trunk.feature_info)
        case ModifiedResNet():
            return len(_RESNET_LAYERS)


def blocks(tower: Tower) -> list[nn.Module]:
    """What an image runs through, in order; of a timm trunk the list its features lie in, or its stages."""
    match tower:
        case VisionTransformer():
            return list(tower.transformer.resblocks)
        case TimmModel():
            places = [info["module"] for info in tower.trunk.feature_info]
            around = tower.trunk.get_submodule(places[-1].rpartition(".")[0])
            listed = isinstance(around, nn.Sequential | nn.ModuleList)
            return list(around) if listed else [tower.trunk.get_submodule(place) for place in places]
        case ModifiedResNet():
            return [tower.get_submodule(name) for name in _RESNET_LAYERS if name != "stem"]


def prefix_tokens(tower: Tower) -> int:
    """How many leading tokens of a layer are not patches."""
    match tower:
        case VisionTransformer():
            return 1
        case TimmModel():
            hands_out = "return_prefix_tokens" in inspect.signature(tower.trunk.forward_intermediates).parameters
            return tower.trunk.num_prefix_tokens if hands_out else 0
        case ModifiedResNet():
            return 0


@dataclass(frozen=True)
class Taps:
    """The layers to take, counted from 0, in the order they are concatenated, and whether the last norm is applied to them."""

    layers: tuple[int, ...]
    norm: bool

    def prune(self, tower: Tower) -> None:
        """Drop from the tower what no tap needs: later layers, the norm, pooling, projections."""
        indices = sorted(set(self.layers))
        match tower:
            case VisionTransformer():
                tower.prune_intermediate_layers(indices, prune_norm=not self.norm, prune_head=True)
            case TimmModel():
                tower.trunk.prune_intermediate_layers(indices, prune_norm=not self.norm, prune_head=True)
                tower.head = nn.Identity()
            case ModifiedResNet():
                for name in (*_RESNET_LAYERS[indices[-1] + 1 :], "attnpool"):
                    setattr(tower, name, nn.Identity())

    def run(self, tower: Tower, pixels: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B N D"], Grid, int]:
        """Tokens, grid and number of prefix tokens; several layers are concatenated on the channel.

        Raises `AssemblyError` for layers whose grids differ.
        """
        prefix, indices = prefix_tokens(tower), sorted(set(self.layers))
        output = tower.forward_intermediates(
            pixels,
            indices=indices,
            stop_early=True,
            normalize_intermediates=self.norm,
            intermediates_only=True,
            output_extra_tokens=prefix > 0,
        )
        images = dict(zip(indices, output["image_intermediates"], strict=True))  # B D h w
        leading = dict(zip(indices, output["image_intermediates_prefix"], strict=True)) if prefix else {}  # B P D
        tokens = []
        for layer in self.layers:
            patches = images[layer].flatten(2).transpose(1, 2)  # B h*w D
            tokens.append(torch.cat([leading[layer], patches], dim=1) if prefix else patches)
        grids = {layer: (images[layer].shape[2], images[layer].shape[3]) for layer in self.layers}
        if len(set(grids.values())) > 1:
            named = ", ".join(f"layer {layer} {rows}x{columns}" for layer, (rows, columns) in grids.items())
            raise AssemblyError(f"`layers` of different grids cannot be concatenated: {named}; take layers of one grid")
        return torch.cat(tokens, dim=2), grids[self.layers[0]], prefix
