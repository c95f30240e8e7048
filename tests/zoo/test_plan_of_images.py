"""What a plan says of images of different sizes is what the processor does with them; its rough figure has the right size."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import CROSS, LLAMA, causal_lm, section

import vlmzoo
from vlmzoo.activations import TEXT_TOKENS
from vlmzoo.cli.plan import plan as command_of_plan
from vlmzoo.planning import TYPICAL, plan
from vlmzoo_registry.tasks import IMAGE

SIGLIP = {
    "name": "transformers/vision",
    "final_norm": True,
    "config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 112,
        "patch_size": 14,
    },
}
LAYOUTS: dict[str, Any] = {
    "anyres": {"name": "layouts/anyres"},
    "anyres, shrunk": {"name": "layouts/anyres", "max_tiles": 2},
    "dynamic tiles": {"name": "layouts/dynamic-tiles", "max_tiles": 6},
    "native": {"name": "layouts/native"},
}


def cut(layout: dict[str, Any], architecture: str = "unified", **more: Any) -> dict[str, Any]:
    made = section(architecture, vision=copy.deepcopy(SIGLIP), language=causal_lm(LLAMA), **more)
    return {**made, "layout": layout}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_table_of_sizes_is_what_the_processor_does(name: str) -> None:
    config = cut(LAYOUTS[name])
    made = plan(config)
    model = vlmzoo.build(config)
    assert len(made.sizes) == len(TYPICAL)
    for row in made.sizes:
        width, height = map(int, row.image.split("x"))
        batch = model.processor(text=f"{IMAGE} a", images=[[Image.new("RGB", (width, height))]])
        slots = int((batch["input_ids"] == model.config.image_token_id).sum())
        assert (row.views, row.image_tokens, row.text_slots) == (batch["pixel_values"].shape[1], slots, slots), row


def test_a_hybrid_model_has_its_thumbnail_in_the_text() -> None:
    config = cut(LAYOUTS["dynamic tiles"], "hybrid", connector=[{"name": "connectors/mlp"}, *CROSS])
    for row in plan(config).sizes:
        assert row.text_slots == 64
        assert row.image_tokens == 64 * row.views


def test_where_all_images_are_alike_there_is_no_table() -> None:
    assert plan(section()).sizes == ()


def test_sizes_that_a_recipe_publishes_are_in_the_table() -> None:
    stage = {
        "name": "s",
        "objective": "caption",
        "data": [{"name": "captions", "path": "none.jsonl", "images": "none"}],
        "train": {"connector": {"lr": 1.0}},
        "batch_size": 1,
        "steps": 1,
    }
    about = {"title": "x", "sources": ["https://x"], "published": {"image_tokens": {"500x300": 1}}}
    made = plan({"about": about, "model": cut(LAYOUTS["anyres"]), "stages": [stage]})
    assert "500x300" in [row.image for row in made.sizes]


def kept_by(model: Any, batch: dict[str, torch.Tensor]) -> int:
    """The bytes of all tensors that autograd keeps in a forward pass, parameters and the batch left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), *batch.values()]}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch).loss  # noqa: F841 - it keeps the graph alive
    return sum(kept.values())


@pytest.mark.parametrize("vision_trains", [False, True])
def test_the_figure_for_activations_is_right_within_a_factor_of_two(vision_trains: bool) -> None:
    wide = {**LLAMA, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "max_position_embeddings": 512}
    vision = copy.deepcopy(SIGLIP)
    vision["config"] |= {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4}
    config = section(vision=vision, language=causal_lm(wide))
    train = {"connector": {"lr": 1.0}, **({"vision": {"lr": 1.0}} if vision_trains else {})}
    stage = {
        "name": "s",
        "objective": "caption",
        "data": [{"name": "captions", "path": "none.jsonl", "images": "none"}],
        "train": train,
        "batch_size": 4,
        "steps": 1,
    }
    estimate = plan({"model": config, "stages": [stage]}).stages[0].activation_bytes
    model = vlmzoo.build(config)
    for part, module in model.parts.items():
        module.requires_grad_(part in train)
    model.train()
    ids = torch.full((4, 64 + TEXT_TOKENS), 5)
    ids[:, :64] = model.config.image_token_id
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.where(ids == 5, 5, -100),
        "pixel_values": torch.rand(4, 1, 3, 112, 112),
        "image_mask": torch.ones(4, 1, dtype=torch.bool),
    }
    batch["labels"][:, 65:] = -100  # one token each: what the loss keeps is not in the figure
    assert 0.5 < estimate / kept_by(model, batch) < 2


def test_a_budget_of_tokens_is_what_activations_are_estimated_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four samples of 16 slots and the text it is taken to have are as many tokens as one piece of four times that."""
    each = 16 + TEXT_TOKENS
    stage = {
        "name": "s",
        "objective": "caption",
        "data": [{"name": "captions", "path": "none.jsonl", "images": "none"}],
        "train": {"connector": {"lr": 1.0}, "vision": {"lr": 1.0}},
        "batch_size": 4,
        "steps": 1,
    }
    config = section(language=causal_lm(LLAMA))

    def found(**changes: Any) -> int:
        return plan({"model": config, "stages": [stage | changes]}).stages[0].activation_bytes

    samples = found()
    assert found(batch_size=1, batching={"max_tokens": 4 * each}) == samples
    assert found(batch_size=2, micro_batch=2, batching={"mode": "pack", "max_tokens": 2 * each}) == samples
    assert found(batch_size=1, batching={"max_tokens": 4 * each, "max_images": 2}) < samples
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({"model": config, "stages": [stage | {"batch_size": 2, "batching": {"max_tokens": 5000}}]}))
    command_of_plan(path)
    assert "for 2 pieces of 5,000 tokens, without" in " ".join(capsys.readouterr().out.split())
    path.write_text(json.dumps({"model": config, "stages": [stage]}))
    command_of_plan(path)
    assert f"for 4 samples of one image and {TEXT_TOKENS} tokens of text, without" in " ".join(capsys.readouterr().out.split())
