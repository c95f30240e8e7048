"""Every toy encoder x connector x language model x architecture: what fits runs, learns, speaks and survives a file; the rest
is refused with the reason."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vlmzoo
from vlmzoo_registry import AssemblyError

VISION: dict[str, dict[str, Any]] = {
    "patches": {"name": "toy/vision"},
    "class token": {"name": "toy/vision", "class_token": True, "prefix": "keep"},
    "two layers": {"name": "toy/vision", "layers": [-1, -2], "final_norm": False},
}
RESAMPLER = {"name": "connectors/resampler", "queries": 3, "depth": 1, "heads": 2, "head_width": 8}
SHUFFLE = {"name": "connectors/pixel-shuffle", "factor": 2}
CROSS = {"name": "connectors/cross-attention", "heads": 2, "head_width": 8}
CONNECTORS: dict[str, list[dict[str, Any]]] = {
    "toy": [{"name": "toy/connector"}],
    "linear": [{"name": "connectors/linear"}],
    "mlp": [{"name": "connectors/mlp"}],
    "resampler": [RESAMPLER],
    "shuffle, mlp": [SHUFFLE, {"name": "connectors/mlp"}],
    "shuffle": [SHUFFLE],
    "flamingo": [RESAMPLER, {**CROSS, "every": 1}],
    "llama": [{"name": "connectors/linear"}, {**CROSS, "form": "llama", "layers": [1], "place": "after"}],
    "blocks first": [{**CROSS, "every": 1}, {"name": "connectors/mlp"}],
    "too deep": [{**CROSS, "layers": [7]}],
}
LANGUAGE: dict[str, dict[str, Any]] = {
    "rotary": {"name": "toy/language"},
    "learned": {"name": "toy/language", "learned_positions": 128},
}
CASES = list(product(VISION, CONNECTORS, LANGUAGE, ("unified", "cross_attention")))


def refusal(vision: str, connector: str, architecture: str) -> list[str]:
    """What the refusal must say, worked out by hand; empty where the combination fits."""
    shuffled = "connectors/pixel-shuffle" in str(CONNECTORS[connector])
    blocks = "connectors/cross-attention" in str(CONNECTORS[connector])
    if connector == "blocks first":
        if architecture == "unified":
            return ["builds blocks in the decoder: use `architecture: cross_attention`"]
        return ["must be the last of the chain (is 0 of 0-1)", "needs a connector with the capability `layers`"]
    if blocks and architecture == "unified":
        return ["builds blocks in the decoder: use `architecture: cross_attention`"]
    if connector == "too deep":
        return ["`layers` names [7], and the decoder has 2 layers: the last is 1"]
    if shuffled and vision == "class token":
        return ["prefix"]
    if connector == "shuffle" and architecture == "unified":
        width = 48 if vision == "two layers" else 24
        return [f"it puts out width {4 * width} where 32 is needed: let `connectors/linear`"]
    return []


def config(vision: str, connector: str, language: str, architecture: str) -> dict[str, Any]:
    """The `model:` section of one cell."""
    return {
        "architecture": architecture,
        "vision": VISION[vision],
        "connector": CONNECTORS[connector],
        "language": LANGUAGE[language],
        "template": "plain",
    }


@pytest.mark.parametrize(("vision", "connector", "language", "architecture"), CASES)
def test_cell(vision: str, connector: str, language: str, architecture: str, tmp_path: Path) -> None:
    section = config(vision, connector, language, architecture)
    expected = refusal(vision, connector, architecture)
    if expected:
        with pytest.raises(AssemblyError) as error:
            vlmzoo.build(section)
        for text in expected:
            assert text in str(error.value)
        return

    torch.manual_seed(0)
    model = vlmzoo.build(section)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
    batch = model.processor(text=["a cat", "what is it?"], images=[image, image.rotate(90)])
    labels = batch["input_ids"].masked_fill(
        (batch["attention_mask"] == 0) | (batch["input_ids"] == model.config.image_token_id), -100
    )

    model.requires_grad_(True)
    model.train()
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            parameter.data.fill_(0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(2):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]

    model.eval()
    spoken = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert spoken.shape[1] <= batch["input_ids"].shape[1] + 4
    assert torch.equal(spoken, model.generate(**batch, max_new_tokens=4, do_sample=False, use_cache=False))

    model.save_pretrained(tmp_path / "checkpoint")
    again = vlmzoo.load(tmp_path / "checkpoint")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, model(**batch).logits)
        swapped = {**batch, "pixel_values": batch["pixel_values"].flip(0)}
        assert not torch.equal(model(**swapped).logits, model(**batch).logits)


def test_the_grid_has_cells_of_both_kinds() -> None:
    refused = sum(bool(refusal(vision, connector, architecture)) for vision, connector, _, architecture in CASES)
    assert len(CASES) == 120
    assert len(CASES) - refused == 72
