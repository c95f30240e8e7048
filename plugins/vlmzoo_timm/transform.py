"""The preprocessing of a timm model: what timm records about its weights, unless the config says otherwise."""

from typing import Literal

from timm.data import resolve_data_config

from vlmzoo_registry import ConfigError, ImageTransform
from vlmzoo_timm.architecture import Architecture
from vlmzoo_timm.config import TimmConfig

_RESIZE: dict[str, Literal["crop", "squash", "pad"]] = {"center": "crop", "squash": "squash", "border": "pad"}


def image_transform(config: TimmConfig, architecture: Architecture) -> ImageTransform:
    """The transform for evaluation.

    Raises `ConfigError` for a model that does not take RGB, and for one whose preprocessing is none of ours.
    """
    recorded = resolve_data_config(pretrained_cfg=architecture.record)
    channels, *size = recorded["input_size"]
    if channels != 3:
        raise ConfigError(f"timm's `{architecture.name}` takes {channels} channels; images have 3 here")
    size = config.size or (size[0], size[1])
    resize = config.resize or _RESIZE[recorded["crop_mode"]]
    fraction = 1.0
    if resize != "pad":
        # What timm records goes with the way to resize that it records.
        own = recorded["crop_pct"] if resize == _RESIZE[recorded["crop_mode"]] else 1.0
        fraction = config.crop_fraction or own
    elif config.crop_fraction is not None:
        raise ConfigError(
            f"`crop_fraction` (={config.crop_fraction}) is read with `resize: crop` or `squash`, not with `resize: {resize}`"
        )
    elif config.resize is None and recorded["crop_pct"] != 1.0:
        raise ConfigError(
            f"timm's `{architecture.name}` was evaluated with `{recorded['crop_mode']}` and then cut to {recorded['crop_pct']} "
            "of each side, which is none of our ways to resize: set `resize` (squash, crop or pad)"
        )
    return ImageTransform(
        height=size[0],
        width=size[1],
        mean=config.mean or tuple(recorded["mean"]),
        std=config.std or tuple(recorded["std"]),
        interpolation=config.interpolation or recorded["interpolation"],
        resize=resize,
        crop_fraction=fraction,
    )
