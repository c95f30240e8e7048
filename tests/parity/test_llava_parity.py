"""LLaVA: the zoo's unified model against `LlavaForConditionalGeneration` with the same weights."""

import pytest
import torch
from reference import copy_by_order, greedy, randomise, zoo_model
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from vlmzoo.model.unified import UnifiedVLM

IMAGE = 299
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}


def pair(layers: list[int], keep: bool = False, siglip: bool = False) -> tuple[LlavaForConditionalGeneration, UnifiedVLM]:
    """A random LLaVA and the zoo model that should be the same."""
    torch.manual_seed(0)
    vision = SiglipVisionConfig(**VISION) if siglip else CLIPVisionConfig(**VISION)
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=LlamaConfig(**TEXT),
            image_token_index=IMAGE,
            vision_feature_layer=layers[0] if len(layers) == 1 else layers,
            vision_feature_select_strategy="full" if keep or siglip else "default",
        )
    ).eval()
    randomise(theirs)
    ours = zoo_model(
        {
            "architecture": "unified",
            "vision": {
                "name": "transformers/vision",
                "config": {"model_type": vision.model_type, **VISION},
                "layers": layers,
                **({"prefix": "keep" if keep else "drop"} if vision.model_type == "clip_vision_model" else {}),
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
            },
            "connector": {"name": "connectors/mlp", "depth": 2},
            "language": {"name": "transformers/causal-lm", "config": {"model_type": "llama", **TEXT}},
        },
        IMAGE,
    )
    assert isinstance(ours, UnifiedVLM)
    ours.vision.model.load_state_dict(theirs.model.vision_tower.state_dict())
    copy_by_order(ours.connector[0], theirs.model.multi_modal_projector)
    ours.language.model.model.load_state_dict(theirs.model.language_model.state_dict())
    ours.language.model.lm_head.load_state_dict(theirs.lm_head.state_dict())
    return theirs, ours


def inputs(ids: torch.Tensor, count: int, starts: tuple[int, int] = (2, 5)) -> tuple[dict, dict]:
    """One image per row at different places; the same for both models."""
    ids = ids.clone()
    for row, start in enumerate(starts):
        ids[row, start : start + count] = IMAGE
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    return (
        {"input_ids": ids, "pixel_values": pixels, "attention_mask": mask},
        {"input_ids": ids, "pixel_values": pixels[:, None], "attention_mask": mask},
    )


CASES = [([-2], False, False), ([-1], True, False), ([-2, -3], False, False), ([-1], False, True)]


@pytest.mark.parametrize(("layers", "keep", "siglip"), CASES)
def test_logits_and_greedy_ids_are_those_of_llava(ids: torch.Tensor, layers: list[int], keep: bool, siglip: bool) -> None:
    theirs, ours = pair(layers, keep, siglip)
    reference, batch = inputs(ids, 17 if keep else 16)
    with torch.no_grad():
        expected, logits = theirs(**reference).logits, ours(**batch).logits
    assert expected.std() > 0.1
    assert (logits - expected).abs().max() <= 1e-5
    assert torch.equal(greedy(ours, batch), greedy(theirs, reference))


def test_a_wrong_layer_is_seen(ids: torch.Tensor) -> None:
    """The comparison can fail: one layer off moves the logits far beyond the tolerance."""
    theirs, _ = pair([-2])
    _, ours = pair([-3])
    reference, batch = inputs(ids, 16)
    with torch.no_grad():
        assert (ours(**batch).logits - theirs(**reference).logits).abs().max() > 1e-2


def test_loss_and_every_gradient_are_those_of_llava(ids: torch.Tensor) -> None:
    theirs, ours = pair([-2])
    reference, batch = inputs(ids, 16)
    labels = reference["input_ids"].masked_fill(reference["input_ids"] == IMAGE, -100)
    labels[:, :20] = -100
    expected, loss = theirs(**reference, labels=labels).loss, ours(**batch, labels=labels).loss
    assert torch.allclose(loss, expected, rtol=1e-6)
    expected.backward()
    loss.backward()
    pairs = [
        (ours.vision.model, theirs.model.vision_tower),
        (ours.connector[0], theirs.model.multi_modal_projector),
        (ours.language.model.model, theirs.model.language_model),
        (ours.language.model.lm_head, theirs.lm_head),
    ]
    compared = 0
    for mine, other in pairs:
        for (name, a), b in zip(mine.named_parameters(), other.parameters(), strict=True):
            if b.grad is None:
                assert a.grad is None, name
                continue
            assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), name
            compared += 1
    assert compared > 80


def test_left_padding_changes_nothing(ids: torch.Tensor) -> None:
    _, ours = pair([-2])
    _, batch = inputs(ids, 16)
    with torch.no_grad():
        whole = ours(**batch).logits
        padded = ours(
            input_ids=torch.nn.functional.pad(batch["input_ids"], (4, 0)),
            attention_mask=torch.nn.functional.pad(batch["attention_mask"], (4, 0)),
            pixel_values=batch["pixel_values"],
        ).logits[:, 4:]
    assert (whole - padded).abs().max() <= 1e-5
