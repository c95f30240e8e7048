"""`transformers/mllama-vision` on canvases of several tiles, against `MllamaVisionModel` as its processor feeds it."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import MllamaVisionModel
from transformers.models.mllama.configuration_mllama import MllamaVisionConfig as Reference
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from vlmzoo_layouts.canvas import Canvas
from vlmzoo_layouts.config import CanvasConfig
from vlmzoo_registry import AssemblyError, CheckpointError, FeatureShape, LayoutContext
from vlmzoo_transformers.config import MllamaVisionConfig
from vlmzoo_transformers.mllama_vision import MllamaVisionEncoder

SIDE = 32
FIELDS = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_global_layers": 2,
    "attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
    "intermediate_layers_indices": [0, 2],
    "max_num_tiles": 4,
    "supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]],
    "vision_output_dim": 96,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tower with every tensor at random, gates and tile embeddings too, as transformers saves it."""
    torch.manual_seed(0)
    reference = MllamaVisionModel(Reference(**FIELDS)).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("mllama")
    reference.save_pretrained(path)
    return reference, path


def encoder(path, **options) -> MllamaVisionEncoder:
    return MllamaVisionEncoder(MllamaVisionConfig(model=str(path), **options)).eval()


@pytest.mark.parametrize(("width", "height"), [(30, 20), (90, 40), (40, 100), (200, 20), (70, 70), (25, 140)])
@pytest.mark.parametrize("prefix", ["keep", "drop"])
def test_a_canvas_is_that_of_transformers(folder, width, height, prefix):
    reference, path = folder
    built = encoder(path, prefix=prefix)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    mean, std = list(built.transform.mean), list(built.transform.std)
    processor = MllamaImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, max_image_tiles=4, image_mean=mean, image_std=std, resample=2
    )
    theirs = processor(image, return_tensors="pt")
    tiles = int(theirs.pop("num_tiles")[0][0])
    layout = Canvas(CanvasConfig(max_tiles=4), LayoutContext((SIDE, SIDE), built.shape_at, built.output_shape.width))
    (view,) = layout.cut(image, built.transform)
    with torch.no_grad():
        whole = reference(**theirs).last_hidden_state[0, 0, :tiles]
        came = built(view[None])
    expected = (whole if prefix == "keep" else whole[:, 1:]).flatten(0, 1)[None]
    assert came.tokens.shape == expected.shape
    assert (came.tokens - expected).abs().max() <= 1e-5
    assert came.shape == built.shape_at((view.shape[1], view.shape[2]))


def test_canvases_of_several_images_are_encoded_each_for_itself(folder):
    built = encoder(folder[1])
    views = torch.randn(3, 3, SIDE, 2 * SIDE)
    with torch.no_grad():
        together = built(views).tokens
        alone = torch.cat([built(view[None]).tokens for view in views])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_one_tile_has_a_grid_and_several_have_none(folder):
    built = encoder(folder[1])
    assert built.shape_at((SIDE, SIDE)) == built.output_shape == FeatureShape(96, 17, (4, 4), 1)
    assert built.shape_at((2 * SIDE, SIDE)) == FeatureShape(96, 34, None)


@pytest.mark.parametrize("size", [(40, 32), (3 * SIDE, 2 * SIDE), (5 * SIDE, SIDE), (16, 16)])
def test_a_size_that_is_no_canvas_is_refused(folder, size):
    message = rf"cannot take views of {size[0]}x{size[1]} pixels: its canvases are 1x1, 1x2, .* 4x1 tiles of 32x32"
    with pytest.raises(AssemblyError, match=message):
        encoder(folder[1]).shape_at(size)
    with pytest.raises(AssemblyError, match=message):
        encoder(folder[1])(torch.zeros(1, 3, *size))


def test_weights_that_are_not_all_there_are_refused(folder, tmp_path):
    state = load_file(folder[1] / "model.safetensors")
    del state["global_transformer.layers.1.gate_attn"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((folder[1] / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"no weights for 1 of the .*: `global_transformer.layers.1.gate_attn`"):
        encoder(tmp_path)
