"""The unified model: slots and features per row, batches as rows, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vlmzoo
from vlmzoo.model.unified import UnifiedVLM
from vlmzoo_registry import DataError, PluginError
from vlmzoo_registry.vision import VisionFeatures


@pytest.fixture(scope="module")
def model() -> UnifiedVLM:
    """Toy parts; weights large enough that what one token sees shows in another."""
    torch.manual_seed(0)
    vlm = vlmzoo.build(
        {
            "architecture": "unified",
            "vision": {"name": "toy/vision"},
            "connector": {"name": "connectors/mlp"},
            "language": {"name": "toy/language"},
            "template": "plain",
        }
    )
    assert isinstance(vlm, UnifiedVLM)
    with torch.no_grad():
        for parameter in vlm.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return vlm


def picture(seed: int) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8))


def test_surplus_slots_of_one_row_do_not_fill_the_lack_of_another(model: UnifiedVLM) -> None:
    """17 + 15 slots for two images of 16 tokens: right over the batch, wrong in each row."""
    batch = model.processor(text=["a", "b"], images=[picture(0), picture(1)])
    ids, image = batch["input_ids"].clone(), model.config.image_token_id
    ids[0, -1] = image
    ids[1, 0] = 5
    assert (ids == image).sum() == 32
    with pytest.raises(DataError) as error:
        model(**{**batch, "input_ids": ids})
    assert str(error.value) == (
        "image slots and images do not match (`model.processor` writes as many slots as there are tokens)\n"
        "  - row 0: 17 image slots in `input_ids`, but 1 images x 16 tokens = 16 features\n"
        "  - row 1: 15 image slots in `input_ids`, but 1 images x 16 tokens = 16 features"
    )


def test_slots_without_an_image_and_images_without_a_slot_are_refused(model: UnifiedVLM) -> None:
    batch = model.processor(text="a", images=picture(0))
    with pytest.raises(DataError, match="row 0: 16 image slots in `input_ids`, but 0 images = 0 features"):
        model(input_ids=batch["input_ids"])
    text = model.processor(text="a")
    with pytest.raises(DataError, match="row 0: 0 image slots in `input_ids`, but 1 images x 16 tokens = 16 features"):
        model(**text, pixel_values=batch["pixel_values"])


def test_pixels_of_another_layout_are_refused(model: UnifiedVLM) -> None:
    batch = model.processor(text="a", images=picture(0))
    with pytest.raises(DataError, match=r"`pixel_values` has 4 axes \(1, 3, 32, 32\); it must be \[rows, images per row, 3"):
        UnifiedVLM.encode_images.__wrapped__(model, batch["pixel_values"][0], None)


def test_an_encoder_that_lies_about_its_shape_is_caught(model: UnifiedVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: one token fewer than declared."""
    original = model.vision.forward

    def fewer(pixels: Tensor) -> VisionFeatures:
        return VisionFeatures(tokens=original(pixels).tokens[:, 1:], grid=None)

    monkeypatch.setattr(model.vision, "forward", fewer)
    with pytest.raises(PluginError, match=r"declared 16 tokens of width 24 .* but returned 15 tokens of width 24 \(no grid"):
        model(**model.processor(text="a", images=picture(0)))


def test_several_images_go_to_their_own_slots(model: UnifiedVLM) -> None:
    """The k-th placeholder gets the k-th image of its row, in batches of rows with 0, 1 and 2 images."""
    one, two = picture(1), picture(2)
    batch = model.processor(text=["no image", "<image>", "<image> and <image>"], images=[[], [one], [one, two]])
    assert batch["image_mask"].tolist() == [[False, False], [True, False], [True, True]]
    with torch.no_grad():
        together = model(**batch).logits
        for row, (text, images) in enumerate([("no image", []), ("<image>", [one]), ("<image> and <image>", [one, two])]):
            alone = model.processor(text=text, images=[images])
            length = alone["input_ids"].shape[1]
            assert torch.allclose(model(**alone).logits[0], together[row, -length:], atol=1e-4)
        swapped = model.processor(text="<image> and <image>", images=[[two, one]])
        assert not torch.allclose(model(**swapped).logits[0], together[2, -swapped["input_ids"].shape[1] :], atol=1e-2)


def test_a_batch_generates_as_its_rows_one_by_one(model: UnifiedVLM) -> None:
    texts, pictures = ["short", "a much longer sentence", ""], [picture(i) for i in range(3)]
    batch = model.processor(text=texts, images=pictures)
    together = model.generate(**batch, max_new_tokens=8, min_new_tokens=8, do_sample=False)[:, -8:]
    for row in range(3):
        alone = model.processor(text=texts[row], images=pictures[row])
        assert torch.equal(model.generate(**alone, max_new_tokens=8, min_new_tokens=8, do_sample=False)[0, -8:], together[row])
    assert len({tuple(row.tolist()) for row in together}) > 1


def test_the_vision_encoder_runs_once_per_generation(model: UnifiedVLM) -> None:
    calls = []
    handle = model.vision.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    batch = model.processor(text=["a", "b"], images=[picture(0), picture(1)])
    model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, num_beams=2)
    handle.remove()
    assert calls == [2, 4]


def test_a_placeholder_is_never_generated(model: UnifiedVLM) -> None:
    """Planted: a head that wants nothing else."""
    batch = model.processor(text="a", images=picture(0))
    image = model.config.image_token_id
    handle = model.language.head.register_forward_hook(
        lambda module, args, output: output.index_fill(-1, torch.tensor([image]), 1e4)
    )
    free = model.generate(**batch, max_new_tokens=3, do_sample=False, suppress_tokens=None)
    kept = model.generate(**batch, max_new_tokens=3, do_sample=False)
    handle.remove()
    assert image in free[0, batch["input_ids"].shape[1] :]
    assert image not in kept[0, batch["input_ids"].shape[1] :]


def test_labels_alone_make_no_logits(model: UnifiedVLM) -> None:
    batch = model.processor(text="a sentence", images=picture(0))
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == model.config.image_token_id, -100)
    assert model(**batch, labels=labels).logits is None
    assert model(**batch, labels=labels, logits_to_keep=0).logits.shape[1] == labels.shape[1]
    assert model(**batch, logits_to_keep=2).logits.shape[1] == 2


def test_a_frozen_encoder_runs_without_a_graph_and_stays_in_evaluation_mode(model: UnifiedVLM) -> None:
    model.requires_grad_(True)
    model.vision.requires_grad_(False)
    model.train()
    assert not model.vision.training and model.connector.training and model.language.training
    batch = model.processor(text="a", images=picture(0))
    ((seen,),) = model.encode_images(batch["pixel_values"])
    assert seen.views.tokens.requires_grad
    assert not model.vision(batch["pixel_values"][0]).tokens.requires_grad
    model.requires_grad_(True)
    model.eval()


def test_transformers_finds_the_embeddings(model: UnifiedVLM) -> None:
    assert model.get_input_embeddings() is model.language.embedding
