"""The class of transformers that builds a vision tower alone, for towers that `AutoModel` knows and for those it does not.

Several towers (BLIP-2's, Idefics2's, Janus') are built by their whole models only; their classes stand in the same module.
"""

import inspect

import torch
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from vlmzoo_registry import ConfigError
from vlmzoo_registry.compat.transformers import from_config, modeling_classes


def tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class whose instance this config describes.

    What `AutoModel` would build, else the smallest class of the family's module that is made from this config and takes
    `pixel_values`. Raises `ConfigError` where there is none.
    """
    if type(config) in MODEL_MAPPING:
        found = MODEL_MAPPING[type(config)]
        if takes_pixels(found):
            return found
    made_from_it = _classes_made_from(config)
    if not made_from_it:
        raise ConfigError(
            f"`{config.model_type}`: transformers has no class that makes a vision tower of pixels from "
            f"`{type(config).__name__}` alone: give the config of a vision tower (of a whole model, its `vision_config`)"
        )
    return min(made_from_it, key=lambda made: _size(made, config))


def takes_pixels(made: type[PreTrainedModel]) -> bool:
    """Whether instances are called with `pixel_values`."""
    return "pixel_values" in inspect.signature(made.forward).parameters


def _classes_made_from(config: PreTrainedConfig) -> list[type[PreTrainedModel]]:
    return [made for made in modeling_classes(config) if made.config_class is type(config) and takes_pixels(made)]


def _size(made: type[PreTrainedModel], config: PreTrainedConfig) -> int:
    """How many parameters an instance has: what wraps the tower in something more has more."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in from_config(made, config).parameters())
