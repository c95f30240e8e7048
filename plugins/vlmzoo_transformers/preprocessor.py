"""The image transform of a transformers model, from its preprocessor file: what the processors on Pillow do, to 1e-5.

Those on torchvision round otherwise, by a few grey levels for single pixels of noise (DINOv3's, which has no other: by one).
"""

from dataclasses import dataclass
from math import floor, nextafter
from typing import Any, Literal

from transformers import AutoImageProcessor, ImageProcessingMixin

from vlmzoo_registry import ConfigError, Grid, ImageTransform
from vlmzoo_transformers.config import VisionConfig
from vlmzoo_transformers.known import known_architecture

Statistics = tuple[float, float, float]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_FILTERS: dict[int, Literal["nearest", "bilinear", "bicubic", "lanczos"]] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}
_ELSEWHERE = {
    "do_flip_channel_order": "turns the colours to blue, green, red",
    "include_top": "normalises twice",
    "rescale_offset": "shifts the pixels after scaling them",
}


@dataclass(frozen=True)
class _Way:
    """How an image comes to its size; `size` is None where the file names none for single images."""

    size: Grid | None = None
    resize: Literal["squash", "crop", "pad"] = "squash"
    crop_fraction: float = 1.0


def image_transform(config: VisionConfig, native: Grid | None, *, offline: bool = False) -> ImageTransform:
    """What the config says, else the model's own preprocessor file, else ImageNet's statistics for a random tower.

    Raises `ConfigError` where there is no size or no statistics, and where the file asks for what no transform here does.
    """
    own = {} if config.model is None else _own(config, offline=offline)
    way = _Way() if config.resize is not None else _way(own, config.model)
    size = config.size or way.size or native
    if size is None:
        raise ConfigError("the architecture names no `image_size`: set `image_size`, pixels per side or [height, width]")
    resize = config.resize or way.resize
    if resize == "pad" and config.crop_fraction is not None:
        raise ConfigError(f"`crop_fraction` (={config.crop_fraction}) is read with `resize: crop` or `squash`, not with `pad`")
    if not own or own.get("do_normalize", True):
        mean, std = tuple(own.get("image_mean") or _IMAGENET[0]), tuple(own.get("image_std") or _IMAGENET[1])
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    # Processors scale whole numbers up to 255 by a factor, transforms here by 1/255.
    scale = 255 * (own.get("rescale_factor", 1 / 255) if own.get("do_rescale", True) else 1)
    if abs(scale - 1) > 1e-9:
        mean, std = tuple(value / scale for value in mean), tuple(value / scale for value in std)
    return ImageTransform(
        height=size[0],
        width=size[1],
        mean=config.mean or mean,
        std=config.std or std,
        interpolation=config.interpolation or _FILTERS[int(own.get("resample", 3))],
        resize=resize,
        crop_fraction=config.crop_fraction or way.crop_fraction,
        margin="down",
    )


def _own(config: VisionConfig, *, offline: bool) -> dict[str, Any]:
    """The fields of the model's preprocessor file."""
    assert config.model is not None
    try:
        own: dict[str, Any] = AutoImageProcessor.from_pretrained(
            config.model, local_files_only=offline, trust_remote_code=False
        ).to_dict()
        written, _ = ImageProcessingMixin.get_image_processor_dict(config.model, local_files_only=offline)
    except (OSError, ValueError) as error:
        known = known_architecture(config.model) if offline else None
        if known is not None:
            return known["image_processor"]
        if config.mean is None or config.std is None:
            raise ConfigError(
                f"`model` (={config.model!r}) comes with no image preprocessor file, so its pixel statistics are not known: "
                "set `mean` and `std` as the model was trained (each three numbers on [0, 1])"
            ) from error
        return {}
    if not {"size", "crop_size"} & written.keys():
        # The class fills in a size of its own, which says nothing about this model.
        own = {key: value for key, value in own.items() if key not in ("size", "crop_size")}
    reasons = [f"`{key}` (={own[key]}): it {what}" for key, what in _ELSEWHERE.items() if own.get(key)]
    if reasons and (config.mean is None or config.std is None):
        raise ConfigError(
            f"the preprocessor file of `{config.model}` asks for what no transform here does; set `mean` and `std` to take its "
            "place, or use `timm/encoder`",
            reasons,
        )
    return own


def _way(own: dict[str, Any], model: str | None) -> _Way:
    """How the file has an image resized and cut."""
    if not own.get("do_resize", True):
        return _Way()
    size, cut = own.get("size") or {}, own.get("crop_size") or {}
    crops = bool(own.get("do_center_crop"))
    if not size and not cut:
        return _Way(resize="crop" if crops else "squash")
    if isinstance(size, int):
        size = {"shortest_edge": size} if crops else {"height": size, "width": size}
    if isinstance(cut, int):
        cut = {"height": cut, "width": cut}
    short = size.get("shortest_edge")
    if own.get("crop_pct") is not None and short is not None:
        # ConvNeXt's rule has no switch of its own: below 384 pixels it cuts, from there on it does not.
        if crops or short < 384:
            return _Way((short, short), "crop", own["crop_pct"])
        return _Way((short, short))
    if "height" in size:
        if own.get("do_pad"):
            raise ConfigError(
                f"the preprocessor file of `{model}` pads images in a way of its own: set `resize` (squash, crop or pad)"
            )
        whole = (size["height"], size["width"])
        if not crops:
            return _Way(whole)
        target = (cut["height"], cut["width"])
        fractions = {_fraction(part, of, model) for part, of in zip(target, whole, strict=True)}
        if len(fractions) != 1:
            raise ConfigError(
                f"the preprocessor file of `{model}` cuts {target[0]}x{target[1]} out of {whole[0]}x{whole[1]}, another share "
                "of the height than of the width: set `resize` and `crop_fraction`"
            )
        return _Way(target, "squash", fractions.pop())
    if crops and short is not None:
        target = (cut["height"], cut["width"])
        return _Way(target, "crop", _fraction(min(target), short, model))
    return _Way()  # sizes by the longest edge keep the ratio of the image, which is a matter of layouts


def _fraction(part: int, of: int, model: str | None) -> float:
    """The fraction by which `part` divides to `of`, rounded down as transforms do."""
    if part > of:
        raise ConfigError(
            f"the preprocessor file of `{model}` cuts {part} pixels out of {of}, and fills the rest with black: set `resize`"
        )
    fraction = part / of
    return fraction if floor(part / fraction) == of else nextafter(fraction, 0)
