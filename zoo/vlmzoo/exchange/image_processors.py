"""An encoder's image transform as an image processor of transformers, and back.

Those of the Pillow backend: what they make of an image is what the zoo makes of it, to the last bit.
"""

from typing import Any

from transformers import BaseImageProcessor, CLIPImageProcessorPil, LlavaImageProcessorPil, SiglipImageProcessorPil

from vlmzoo_registry import AssemblyError, ImageTransform

_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for its filters, which transformers' files hold."""


def image_processor(transform: ImageTransform) -> BaseImageProcessor:
    """The image processor that does what `transform` does."""
    common = processor_options(transform)
    size = {"height": transform.height, "width": transform.width}
    if transform.resize == "squash":
        return SiglipImageProcessorPil(size=size, **common)
    if transform.resize == "pad":
        return LlavaImageProcessorPil(do_pad=True, size=size, crop_size=size, **common)
    return CLIPImageProcessorPil(
        size={"shortest_edge": int(min(size.values()) / transform.crop_fraction)}, crop_size=size, **common
    )


def processor_options(transform: ImageTransform) -> dict[str, Any]:
    """What every image processor has of a transform: its filter and its statistics."""
    return {
        "resample": next(number for number, name in _FILTERS.items() if name == transform.interpolation),
        "image_mean": list(transform.mean),
        "image_std": list(transform.std),
    }


def transform_options(processor: BaseImageProcessor) -> dict[str, Any]:
    """The options of a zoo encoder whose transform does what `processor` does to an image.

    Raises `AssemblyError` with every step of it that no encoder's transform has.
    """
    given = processor.to_dict()
    reasons = [
        f"`{step}: false`, and an encoder's transform always does that"
        for step in ("do_resize", "do_rescale", "do_normalize")
        if not given.get(step, True)
    ]
    if abs(given.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        reasons.append(f"`rescale_factor` is {given['rescale_factor']}, and an encoder's transform has 1/255")
    size, crop = given.get("size") or {}, given.get("crop_size") or {}
    crops = bool(given.get("do_center_crop")) and "shortest_edge" in size
    if crops and not crop.get("height") == crop.get("width") == size["shortest_edge"]:
        reasons.append(
            f"`size` {dict(size)} and `crop_size` {dict(crop)} differ: a margin that is cut off is not an option here"
        )
    if reasons:
        raise AssemblyError("the image processor does what an encoder's transform does not", reasons)
    return {
        "mean": list(given["image_mean"]),
        "std": list(given["image_std"]),
        "interpolation": _FILTERS[int(given["resample"])],
        "resize": "pad" if given.get("do_pad") else "crop" if crops else "squash",
    }
