"""The preprocessing of an open_clip model: what open_clip records about its weights, unless the config says otherwise."""

from typing import Literal

from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from vlmzoo_openclip.architecture import Architecture
from vlmzoo_openclip.config import OpenClipConfig
from vlmzoo_registry import ConfigError, ImageTransform

_RESIZE: dict[str, Literal["crop", "squash", "pad"]] = {"shortest": "crop", "squash": "squash"}


def image_transform(config: OpenClipConfig, architecture: Architecture) -> ImageTransform:
    """The transform for evaluation.

    Raises `ConfigError` where open_clip pads with a colour of its own, which is none of our ways to resize.
    """
    recorded = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), architecture.preprocess))
    size = architecture.native_size
    if config.image_size is not None:
        size = (config.image_size, config.image_size) if isinstance(config.image_size, int) else config.image_size
    resize = config.resize or _RESIZE.get(recorded.resize_mode)
    if resize is None:
        raise ConfigError(
            f"{architecture.label} was trained with `resize_mode: {recorded.resize_mode}` and the fill colour "
            f"{recorded.fill_color}, which is none of our ways to resize: set `resize` (squash, crop or pad)"
        )
    return ImageTransform(
        height=size[0],
        width=size[1],
        mean=config.mean or tuple(recorded.mean),
        std=config.std or tuple(recorded.std),
        interpolation=config.interpolation or recorded.interpolation,
        resize=resize,
    )
