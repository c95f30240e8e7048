"""What is taken out of a timm model, and in which order: maps and prefix tokens become rows of tokens.

Two kinds of model. Those whose `forward_intermediates` hands out prefix tokens are timm's vision transformers: their norm
can be applied to any layer. Of the others (convolutional and hierarchical ones) a norm fits the last layer alone, and what
follows the last layer can be more than a norm (EfficientNet: a convolution to 1280 channels), so that there `final_norm`
means timm's `forward_features`.
"""

import inspect
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vlmzoo_registry import AssemblyError, Grid


def is_transformer(model: nn.Module) -> bool:
    """Whether this is one of timm's vision transformers, prefix tokens or not."""
    return "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters


def prefix_tokens(model: nn.Module) -> int:
    """How many leading tokens are not patches; timm says so on the models that can have some."""
    return getattr(model, "num_prefix_tokens", 0)


def blocks(model: nn.Module) -> list[nn.Module]:
    """What an image runs through, in order, found by the places that timm records of a model's features.

    The last of these lies in a list (`blocks.11`): then the list's members are the blocks, those between two features too.
    Where it does not (ResNet's `layer4`), the places themselves are.
    """
    places = [info["module"] for info in model.feature_info]
    around = model.get_submodule(places[-1].rpartition(".")[0])
    if isinstance(around, nn.Sequential | nn.ModuleList):
        return list(around)
    return [model.get_submodule(place) for place in places]


@dataclass(frozen=True)
class Taps:
    """The layers to take, counted from 0, in the order they are concatenated, and what is applied to them.

    `features` stands for timm's `forward_features`: all that the model does before pooling.
    """

    layers: tuple[int, ...]
    norm: bool
    features: bool

    def prune(self, model: nn.Module) -> None:
        """Drop from the model what no tap needs: later layers, the norm, pooling, the classifier."""
        if self.features:
            model.reset_classifier(0)
        else:
            model.prune_intermediate_layers(indices=sorted(set(self.layers)), prune_norm=not self.norm, prune_head=True)

    def run(self, model: nn.Module, pixels: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B N D"], Grid | None, int]:
        """Tokens, grid (None where the features come as a row) and number of prefix tokens; layers are joined on the channel.

        Raises `AssemblyError` for layers whose grids differ, and where `forward_features` gives several maps.
        """
        return self._features(model, pixels) if self.features else self._intermediates(model, pixels)

    def _intermediates(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, Grid, int]:
        prefix = prefix_tokens(model) if is_transformer(model) else 0
        indices = sorted(set(self.layers))
        options = {"return_prefix_tokens": True} if prefix else {}
        outputs = model.forward_intermediates(
            pixels, indices=indices, norm=self.norm, stop_early=True, intermediates_only=True, **options
        )
        by_layer = dict(zip(indices, outputs, strict=True))
        maps, tokens = [], []
        for layer in self.layers:
            image, leading = by_layer[layer] if prefix else (by_layer[layer], None)  # B D h w, B P D
            patches = image.flatten(2).transpose(1, 2)  # B h*w D
            maps.append(image)
            tokens.append(patches if leading is None else torch.cat([leading, patches], dim=1))
        grids = [(image.shape[2], image.shape[3]) for image in maps]
        if len(set(grids)) > 1:
            named = ", ".join(
                f"layer {layer} {rows}x{columns}" for layer, (rows, columns) in zip(self.layers, grids, strict=True)
            )
            raise AssemblyError(f"`layers` of different grids cannot be concatenated: {named}; take layers of one grid")
        return torch.cat(tokens, dim=2), grids[0], prefix

    def _features(self, model: nn.Module, pixels: Tensor) -> tuple[Tensor, Grid | None, int]:
        features = model.forward_features(pixels)
        if not isinstance(features, Tensor):
            raise AssemblyError(
                f"`final_norm: true`: timm's `forward_features` gives {len(features)} maps for this model, not one: set "
                "`final_norm: false`"
            )
        if features.ndim == 4:
            # timm writes the layout on a model only where it is not the usual one.
            last = getattr(model, "output_fmt", "NCHW") == "NHWC"
            image = features if last else features.permute(0, 2, 3, 1)  # B h w D
            return image.flatten(1, 2), (image.shape[1], image.shape[2]), 0
        return features, None, prefix_tokens(model)
