"""The transform of a model's folder against the model's own image processor, run on Pillow, over images of many shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig

from vlmzoo_registry import ConfigError, ImageTransform
from vlmzoo_registry.images import to_rgb
from vlmzoo_transformers.config import VisionConfig
from vlmzoo_transformers.preprocessor import image_transform
from vlmzoo_transformers.vision import TransformersVisionEncoder

SIZES = [(50, 80), (81, 47), (32, 32), (21, 20), (7, 133), (640, 333), (1, 1), (256, 256)]
STATISTICS = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
SQUARE = {"height": 32, "width": 32}
# A name for each published file of this form -> the processor, and the fields in which such files differ from its defaults.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
    "CLIP, old file": ("CLIPImageProcessorPil", {"size": 32, "crop_size": 32}),
    "CLIP, odd rest of the crop": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 37}, "crop_size": SQUARE}),
    "ChineseCLIP": ("ChineseCLIPImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
    "SigLIP": ("SiglipImageProcessorPil", {"size": SQUARE}),
    "ViT": ("ViTImageProcessorPil", {"size": SQUARE}),
    "ViT, rectangle": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 48}}),
    "DeiT": ("DeiTImageProcessorPil", {"size": {"height": 36, "width": 36}, "crop_size": SQUARE}),
    "DINOv2": ("BitImageProcessorPil", {"size": {"shortest_edge": 37}, "crop_size": SQUARE}),
    "DINOv2, 224 of 248": (
        "BitImageProcessorPil", {"size": {"shortest_edge": 248}, "crop_size": {"height": 224, "width": 224}}
    ),
    "BEiT": ("BeitImageProcessorPil", {"size": SQUARE, "do_center_crop": False}),
    "BEiT, cut": ("BeitImageProcessorPil", {"size": {"height": 37, "width": 37}, "crop_size": SQUARE, "do_center_crop": True}),
    "BLIP": ("BlipImageProcessorPil", {"size": SQUARE}),
    "ConvNeXt, 224": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    "ConvNeXt, 384": ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 384}}),
    "OWL-ViT": ("OwlViTImageProcessorPil", {"size": SQUARE, "do_center_crop": False}),
    "FLAVA": ("FlavaImageProcessorPil", {"size": SQUARE, "crop_size": SQUARE}),
    "PVT": ("PvtImageProcessorPil", {"size": SQUARE}),
    "InternVL, one tile": ("GotOcr2ImageProcessorPil", {"size": SQUARE}),
    "LLaVA": ("LlavaImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
    "not normalised": ("ViTImageProcessorPil", {"size": SQUARE, "do_normalize": False}),
    "not scaled": (
        "ViTImageProcessorPil", {"size": SQUARE, "do_rescale": False, "image_mean": [120.0] * 3, "image_std": [60.0] * 3}
    ),
    "scaled to [0, 2]": ("ViTImageProcessorPil", {"size": SQUARE, "rescale_factor": 2 / 255}),
}  # fmt: skip


def write(folder: Path, name: str, **fields: Any) -> Any:
    """A folder with a model's config and this processor's file; returns the processor."""
    processor = getattr(transformers, name)(**(STATISTICS | fields))
    processor.save_pretrained(folder)
    AutoConfig.for_model("vit", image_size=48, patch_size=8).save_pretrained(folder)
    return processor


def images() -> list[Image.Image]:
    """Noise, portrait and landscape, large and tiny, in colours, in grey, with a transparent part."""
    draw = np.random.default_rng(0)
    made = [Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in SIZES]
    made.append(Image.fromarray(draw.integers(0, 256, (61, 45), dtype=np.uint8)))
    made.append(Image.fromarray(draw.integers(0, 256, (45, 61, 4), dtype=np.uint8)))
    return [to_rgb(image) for image in made]


def transform(folder: Path, **options: Any) -> ImageTransform:
    return image_transform(VisionConfig(model=str(folder), **options), (48, 48))


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor(tmp_path: Path, name: str) -> None:
    processor = write(tmp_path, PROCESSORS[name][0], **PROCESSORS[name][1])
    ours = transform(tmp_path)
    for image in images():
        theirs = torch.as_tensor(np.array(processor(image, return_tensors="np")["pixel_values"][0]))
        came = ours(image)
        assert came.shape == theirs.shape, (name, image.size)
        assert (came - theirs).abs().max() <= 1e-5, (name, image.size)


def test_pad_is_what_llava_does_to_images(tmp_path: Path) -> None:
    """To a square first, in the mean colour rounded down; then to the size of the encoder."""
    processor = write(tmp_path, "LlavaImageProcessorPil", size={"shortest_edge": 32}, crop_size=SQUARE, do_pad=True)
    ours = transform(tmp_path, resize="pad", image_size=32)
    for image in images():
        image = to_rgb(image)
        theirs = torch.as_tensor(np.array(processor(image, return_tensors="np")["pixel_values"][0]))
        assert (ours(image) - theirs).abs().max() <= 1e-5, image.size


@pytest.mark.parametrize("name", ["CLIP", "DeiT", "DINOv2, 224 of 248", "ConvNeXt, 224", "SigLIP"])
def test_a_resolved_config_has_the_same_transform(tmp_path: Path, name: str) -> None:
    write(tmp_path, PROCESSORS[name][0], **PROCESSORS[name][1])
    resolved = TransformersVisionEncoder.resolve(VisionConfig(model=str(tmp_path)))
    again = VisionConfig.model_validate_json(resolved.model_dump_json())
    assert again.model is None
    assert image_transform(again, None) == transform(tmp_path)


@pytest.mark.parametrize(("name", "levels"), [("CLIPImageProcessor", 6.0), ("DINOv3ViTImageProcessor", 1.0)])
def test_the_processors_on_torchvision_round_otherwise(tmp_path: Path, name: str, levels: float) -> None:
    """By whole grey levels of 255, over images of noise: what the module says of them. DINOv3 has no other processor."""
    fields = {"size": {"shortest_edge": 32}, "crop_size": SQUARE} if name == "CLIPImageProcessor" else {"size": SQUARE}
    processor = write(tmp_path, name, **fields)
    ours = transform(tmp_path)
    differences = []
    for image in images():
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        differences.append(
            float(((ours(image) - theirs) * torch.tensor(STATISTICS["image_std"])[:, None, None]).abs().max()) * 255
        )
    assert 0 < max(differences) <= levels + 1e-3


def test_an_option_takes_the_place_of_the_files_field(tmp_path: Path) -> None:
    write(tmp_path, "BitImageProcessorPil", size={"shortest_edge": 37}, crop_size=SQUARE)
    assert transform(tmp_path, image_size=40).crop_fraction == pytest.approx(32 / 37)
    given = transform(tmp_path, image_size=(40, 24), mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest", resize="squash")
    assert given == ImageTransform(40, 24, (0, 0, 0), (1, 1, 1), "nearest", "squash", 1.0, "down")


def test_sizes_by_the_longest_edge_are_a_matter_of_layouts(tmp_path: Path) -> None:
    write(tmp_path, "Idefics3ImageProcessorPil", size={"longest_edge": 200})
    ours = transform(tmp_path)
    assert (ours.height, ours.width, ours.resize, ours.interpolation) == (48, 48, "squash", "lanczos")


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "MobileViTImageProcessorPil",
            {"size": {"shortest_edge": 32}, "crop_size": SQUARE},
            r"(?s)asks for what no transform here does; .*`do_flip_channel_order` \(=True\): it turns the colours to blue",
        ),
        (
            "Owlv2ImageProcessorPil",
            {"size": SQUARE},
            r"pads images in a way of its own: set `resize` \(squash, crop or pad\)",
        ),
        (
            "CLIPImageProcessorPil",
            {"size": {"shortest_edge": 24}, "crop_size": SQUARE},
            r"cuts 32 pixels out of 24, and fills the rest with black: set `resize`",
        ),
        (
            "DeiTImageProcessorPil",
            {"size": {"height": 40, "width": 64}, "crop_size": SQUARE},
            r"cuts 32x32 out of 40x64, another share of the height than of the width: set `resize` and `crop_fraction`",
        ),
    ],
)
def test_files_that_ask_for_something_else_are_refused(tmp_path: Path, name: str, fields: dict[str, Any], message: str) -> None:
    write(tmp_path, name, **fields)
    with pytest.raises(ConfigError, match=message):
        transform(tmp_path)
    taken = {"resize": "squash", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "image_size": 32}
    assert transform(tmp_path, **taken).mean == (0.5, 0.5, 0.5)


def test_a_crop_of_a_padded_image_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "SiglipImageProcessorPil", size=SQUARE)
    with pytest.raises(ConfigError, match=r"`crop_fraction` \(=0.9\) is read with `resize: crop` or `squash`, not with `pad`"):
        transform(tmp_path, resize="pad", crop_fraction=0.9)


def test_an_architecture_without_a_size_needs_one() -> None:
    with pytest.raises(ConfigError, match="names no `image_size`: set `image_size`, pixels per side or"):
        image_transform(VisionConfig(config={"model_type": "resnet"}), None)
