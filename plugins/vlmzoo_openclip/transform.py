"""The preprocessing of an open_clip model: what open_clip records about its weights, unless the config says otherwise."""

from typing import Literal

from vlmzoo_openclip.architecture import Architecture
from vlmzoo_openclip.config import OpenClipConfig
from vlmzoo_registry import ConfigError, ImageTransform
from vlmzoo_registry.compat.open_clip import PreprocessCfg, merge_preprocess_dict

_RESIZE: dict[str, Literal["crop", "squash", "pad"]] = {"shortest": "crop", "squash": "squash"}


def image_transform(config: OpenClipConfig, architecture: Architecture) -> ImageTransform:
    """The transform for evaluation.

    Raises `ConfigError` where open_clip pads with a colour of its own, which is none of our ways to resize, and for a crop of a
    padded image.
    """
    recorded = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), architecture.preprocess))
    size = config.size or architecture.native_size
    resize = config.resize or _RESIZE.get(recorded.resize_mode)
    if resize is None:
        raise ConfigError(
            f"{architecture.label} was trained with `resize_mode: {recorded.resize_mode}` and the fill colour "
            f"{recorded.fill_color}, which is none of our ways to resize: set `resize` (squash, crop or pad)"
        )
    if resize == "pad" and config.crop_fraction is not None:
        raise ConfigError(f"`crop_fraction` (={config.crop_fraction}) is read with `resize: crop` or `squash`, not with `pad`")
    return ImageTransform(
        height=size[0],
        width=size[1],
        mean=config.mean or tuple(recorded.mean),
        std=config.std or tuple(recorded.std),
        interpolation=config.interpolation or recorded.interpolation,
        resize=resize,
        crop_fraction=config.crop_fraction or 1.0,
    )
