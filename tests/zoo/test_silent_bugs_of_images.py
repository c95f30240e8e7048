"""The silent bugs of the field that concern images and what is generated from them (Q15, Q21 to Q24), each planted and seen.

Every test holds a check to what vlmzoo makes, and the same check to a planted bug.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from silent_bugs import COLOURS, catches, collator, sample
from small_models import GPT2, LLAMA, TOY_LANGUAGE, causal_lm, picture, section, shake
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, SiglipImageProcessorPil, SiglipVisionConfig

import vlmzoo
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError, ImageTransform, Sample, Turn, VisionFeatures
from vlmzoo_registry.images import ImageFile, to_rgb

MODELS = {
    "unified": section(language=TOY_LANGUAGE),
    "unified, learned positions": section(language=causal_lm(GPT2)),
    "cross-attention": section("cross_attention", language=causal_lm(LLAMA)),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> VLM:
    torch.manual_seed(0)
    model = shake(vlmzoo.build(MODELS[request.param])).eval()
    for parameter in model.parameters():  # large weights: what is said then hangs on what is asked
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def test_q15_pad_side_generate(model):
    """Eight rows of uneven length say in one batch what each says alone, greedily."""
    texts = ["a", "what is it", "x" * 30, "<image><image>", "two <image> or", "no image at all here", "b?", "red"]
    images = [[picture(10 * row + place) for place in range(count)] for row, count in enumerate([1, 1, 1, 2, 1, 0, 1, 0])]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}

    def said(texts: list[str], images: list[list[Image.Image]], **padding: Any) -> list[list[int]]:
        batch = model.processor(text=texts, images=images, **padding)
        ids: Tensor = model.generate(**batch, **options)
        new: list[list[int]] = ids[:, -6:].tolist()
        return new

    alone = [said([text], [shown])[0] for text, shown in zip(texts, images, strict=True)]
    assert len({tuple(answer) for answer in alone}) > 4  # a model that always says the same would prove nothing

    def check(**padding: Any) -> None:
        assert said(texts, images, **padding) == alone

    check()
    catches(partial(check, padding_side="right"))


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_q21_image_matters(architecture):
    """A model that has learnt names of pictures says them because of the pictures."""
    rows = [
        Sample(colour, turns, (partial(Image.new, "RGB", (32, 32), colour),), f"rows.jsonl:{colour}")
        for colour in COLOURS
        for turns in [(Turn("user", "<image>"), Turn("assistant", colour))]
    ]

    def blind(module: nn.Module, given: Any, seen: VisionFeatures) -> VisionFeatures:
        return replace(seen, tokens=torch.zeros_like(seen.tokens))

    def check(hook: Callable[..., Any] | None) -> None:
        torch.manual_seed(0)
        model = vlmzoo.build(section(architecture)).train()
        batch = collator(model, "caption", "plain")(rows)
        if hook is not None:
            model.vision.register_forward_hook(hook)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(30):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        pixels, labels = batch["pixel_values"], batch.pop("labels")
        with torch.no_grad():
            shown = [{**batch, "pixel_values": values} for values in (pixels, pixels.flip(0), 0 * pixels)]
            true, swapped, _ = (model(**given).logits for given in shown)
            losses = [float(model(**given, labels=labels).loss) for given in shown]
        assert (true - swapped).abs().max() > 1
        assert 10 * losses[0] < min(losses[1:])

    check(None)
    catches(check, blind)


def clip(folder: Path) -> tuple[dict[str, Any], Callable[[Image.Image], Any]]:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return transformers_folder(folder, CLIPVisionConfig, transformers.CLIPVisionModel, processor)


def siglip(folder: Path) -> tuple[dict[str, Any], Callable[[Image.Image], Any]]:
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return transformers_folder(folder, SiglipVisionConfig, transformers.SiglipVisionModel, processor)


def transformers_folder(
    folder: Path, config: type, tower: type, processor: Any
) -> tuple[dict[str, Any], Callable[[Image.Image], Any]]:
    """A tower as transformers publishes it, and what its own processor makes of an image."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower(config(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"name": "transformers/vision", "model": str(folder)}, lambda image: processor(image)["pixel_values"][0]


def timm_siglip(folder: Path) -> tuple[dict[str, Any], Callable[[Image.Image], Any]]:
    small = {"depth": 1, "embed_dim": 12, "num_heads": 1}
    made = timm.create_model("vit_base_patch16_siglip_224", **small)
    config = {"architecture": "vit_base_patch16_siglip_224", **small}
    return {"name": "timm/encoder", "config": config}, create_transform(**resolve_model_data_config(made))


def open_clip_tower(folder: Path) -> tuple[dict[str, Any], Callable[[Image.Image], Any]]:
    sizes = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1}
    config = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": sizes}
    theirs = image_transform_v2(PreprocessCfg(size=32), is_train=False)
    return {"name": "open_clip/encoder", "config": config}, theirs


@pytest.mark.parametrize("published", [clip, siglip, timm_siglip, open_clip_tower])
def test_q22_preprocess_matches_encoder(published, tmp_path):
    """The pixels of a model are those of the processor that its encoder was published with."""
    vision, reference = published(tmp_path)
    model = vlmzoo.build(section(vision=vision))
    ours: ImageTransform = model.processor.images.transform
    images = [picture(0, 90), picture(1, 90).crop((0, 0, 90, 41)), picture(2, 90).crop((0, 0, 33, 80)), picture(3, 20)]

    def check(pixels_of: Callable[[Image.Image], Tensor]) -> None:
        for image in images:
            expected = torch.as_tensor(np.asarray(reference(image)))
            torch.testing.assert_close(pixels_of(image), expected, rtol=0, atol=1e-5)

    def rescaled_twice(image: Image.Image) -> Tensor:
        mean, std = (torch.tensor(values)[:, None, None] for values in (ours.mean, ours.std))
        return ((ours(image) * std + mean) / 255 - mean) / std

    check(lambda image: model.processor(text="a", images=image)["pixel_values"][0, 0])
    others = {
        "mean of another family": {"mean": (0.485, 0.456, 0.406)},
        "deviation of another family": {"std": (0.229, 0.224, 0.225)},
        "interpolation": {"interpolation": "nearest"},
        "size": {"height": ours.height + 8},
    }
    for fault in others.values():
        catches(check, replace(ours, **fault))
    catches(check, rescaled_twice)
    with pytest.raises(DataError, match=r"row 0, image 0 cannot be read: pixels of mode F have no known scale"):
        model.processor(text="a", images=Image.new("F", (32, 32), 0.5))  # pixels that somebody has scaled already


# How an upright image is stored so that a reader who applies the orientation sees it upright (EXIF 2.32, 4.6.4 A).
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["png", "webp", "jpg"])
def test_q23_exif_applied(form, tmp_path):
    """The eight orientations of a photograph are one tensor: in training, in generation, and where images are cut by size."""
    model = vlmzoo.build(section() | {"layout": {"name": "layouts/dynamic-tiles", "max_tiles": 4}})
    collate = collator(model)
    upright = picture(0, 90).crop((0, 0, 40, 88))
    best = {"png": {}, "webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}[form]
    for orientation, operation in STORED.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = upright if operation is None else upright.transpose(operation)
        stored.save(tmp_path / f"{orientation}.{form}", exif=exif, **best)

    def trained(path: Path) -> dict[str, Tensor]:
        return collate([replace(sample("a"), images=(ImageFile(path, None, "rows.jsonl:1: image"),))])

    def generated(path: Path) -> dict[str, Tensor]:
        return model.processor(text="what?", images=Image.open(path))

    def unturned(path: Path) -> dict[str, Tensor]:
        return collate([replace(sample("a"), images=(lambda: Image.open(path).convert("RGB"),))])

    def check(read: Callable[[Path], dict[str, Tensor]]) -> None:
        expected = trained(tmp_path / f"1.{form}")
        for orientation in STORED:
            batch = read(tmp_path / f"{orientation}.{form}")
            for name in ("pixel_values", "image_mask", "image_layout"):
                torch.testing.assert_close(batch[name], expected[name], rtol=0, atol=0.05 if form == "jpg" else 0)

    check(trained)
    check(generated)
    catches(check, unturned)


def bare(image: Image.Image) -> Image.Image:
    """The field's way: the numbers that stand in the image, whatever they mean."""
    values = np.asarray(image).astype(np.uint8)
    return Image.fromarray(values[..., :3] if values.ndim == 3 and values.shape[2] >= 3 else values).convert("RGB")


def modes() -> dict[str, tuple[Image.Image, np.ndarray, Callable[[Image.Image], Image.Image]]]:
    """An image of every mode, its colours by a computation of its own (float, 0 to 255), and a conversion that is wrong."""
    draws = np.random.default_rng(0)
    grey, wide = draws.integers(0, 256, (6, 8)), draws.integers(0, 65536, (6, 8))
    colours, four = draws.integers(0, 256, (6, 8, 3)), draws.integers(0, 256, (6, 8, 4))
    table = draws.integers(0, 256, (256, 3))
    alpha = four[..., 3:] / 255
    palette = Image.fromarray(grey.astype(np.uint8), "P")
    palette.putpalette(table.astype(np.uint8).tobytes())
    clear = palette.copy()
    clear.info["transparency"] = int(grey[0, 0])
    two = Image.merge("LA", [Image.fromarray(band.astype(np.uint8)) for band in (four[..., 0], four[..., 3])])
    bits = Image.fromarray((grey > 127).astype(np.uint8) * 255).convert("1", dither=Image.Dither.NONE)

    def plain(image: Image.Image) -> Image.Image:
        return image.convert("RGB")

    def three(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[..., None], 3, axis=-1).astype(float)

    over_white = alpha * four[..., :3] + (1 - alpha) * 255
    return {
        "16 bits": (Image.fromarray(wide.astype(np.uint16)), three(wide / 257), plain),
        "RGBA": (Image.fromarray(four.astype(np.uint8)), over_white, plain),
        "LA": (two, three(over_white[..., 0]), plain),
        "P": (palette, table[grey].astype(float), bare),
        "P, transparent": (clear, np.where((grey == grey[0, 0])[..., None], 255, table[grey]).astype(float), plain),
        "CMYK": (
            Image.fromarray(four.astype(np.uint8), "CMYK"),
            (255 - four[..., :3]) * (255 - four[..., 3:]) / 255,
            bare,
        ),
        "1": (bits, three((grey > 127) * 255), bare),
        "L": (Image.fromarray(grey.astype(np.uint8)), three(grey), lambda image: plain(image).point(lambda value: 255 - value)),
        "RGB": (Image.fromarray(colours.astype(np.uint8)), colours.astype(float), lambda image: plain(image).convert("HSV")),
    }


@pytest.mark.parametrize("mode", modes())
def test_q24_modes_converted(mode, tmp_path):
    """Every mode has its colours in RGB to one level of 255: 16 bits scaled, what is transparent over white."""
    image, expected, wrong = modes()[mode]

    def check(convert: Callable[[Image.Image], Image.Image]) -> None:
        came = np.asarray(convert(image), dtype=float)
        assert came.shape == expected.shape
        assert np.abs(came - expected).max() <= 1

    check(to_rgb)
    catches(check, wrong)
    if mode != "P, transparent":
        image.save(tmp_path / "image.tiff")
        check(lambda _: ImageFile(tmp_path / "image.tiff", None, "rows.jsonl:1: image")())
    model = vlmzoo.build(section())
    given = model.processor(text="a", images=image)["pixel_values"]
    torch.testing.assert_close(given, model.processor(text="a", images=to_rgb(image))["pixel_values"])
