"""What features depend on beside the image: where any of it changes, they are others, and none that were kept are read.

Code cannot be compared, so the versions of what runs are part of the key; what comes out of the transform and the layout can
be, so both are tried on pictures of noise.
"""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError, ImageSize

FORMAT = 1
"""Of the folder: raised where files of an older one would be misread."""

LIBRARIES = ("torch", "transformers", "timm", "open_clip_torch", "numpy", "pillow")
"""What decodes, transforms and encodes, besides the distributions of the components."""


def feature_key(vlm: VLM, precision: Literal["float32", "bf16"]) -> dict[str, Any]:
    """All that the features of an image depend on, as plain data: two models with the same key give the same.

    Connectors and the language model are not among it, nor is what a layout writes into the text by what connectors do: these
    come behind, and how an image of some size is cut is compared image by image.
    """
    section = vlm.config.model
    adapter = vlm.adapters.get("vision")
    layout = section.get("layout")
    made_by = [
        record
        for records in (vlm.components.get("vision", ()), vlm.components.get("connector", ()))
        for record in records
        if record.kind in ("vision_encoder", "layout")
    ]
    return {
        "format": FORMAT,
        "encoder": section["vision"],
        "merge": section.get("merge"),
        "tensors": tensors_sha256(vlm.vision),
        "adapters": None if adapter is None else adapter.dump(),
        "transform": repr(vlm.vision.transform),
        "layout": layout,
        "views_sha256": _views_sha256(vlm),
        "precision": precision,
        "matmul": torch.get_float32_matmul_precision(),
        "device": vlm.device.type,
        "components": {f"{record.kind} {record.name}": f"{record.distribution} {record.version}" for record in made_by},
        "versions": {name: _version(name) for name in LIBRARIES},
    }


def key_sha256(key: dict[str, Any]) -> str:
    """The SHA-256 of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def tensors_sha256(module: nn.Module) -> str:
    """The SHA-256 of every parameter and buffer of a module, with names, types and shapes; adapters are among them."""
    digest = hashlib.sha256()
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's values in order; of one on the CPU without a copy."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _views_sha256(vlm: VLM) -> str:
    """The SHA-256 of the pixels that the transform and the layout make of noise in three shapes."""
    height, width = vlm.vision.transform.size
    digest = hashlib.sha256()
    for size in ((height, width), (height // 2 + 7, 2 * width + 3), (3 * height + 1, width + 5)):
        digest.update(f"{size}".encode())
        try:
            views = vlm.layout.cut(_noise(size), vlm.vision.transform)
        except DataError as error:  # a shape that this layout cannot cut
            digest.update(str(error).encode())
            continue
        for view in views:
            digest.update(f"{view.dtype} {tuple(view.shape)}".encode())
            digest.update(tensor_bytes(view))
    return digest.hexdigest()


def _noise(size: ImageSize) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
