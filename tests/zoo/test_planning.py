"""The plan says what the build makes, without a value, a weight or the network; or every reason why it cannot be made."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmzoo
from vlmzoo_registry import AssemblyError

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
VIT_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
TOY: dict[str, Any] = {
    "architecture": "unified",
    "vision": {"name": "toy/vision"},
    "connector": [{"name": "connectors/pixel-shuffle"}, {"name": "connectors/mlp"}],
    "language": {"name": "toy/language"},
    "template": "plain",
}
CROSS = {
    **TOY,
    "architecture": "cross_attention",
    "connector": [
        {"name": "connectors/resampler", "queries": 6, "depth": 1},
        {"name": "connectors/cross-attention", "every": 2, "place": "after", "heads": 2, "head_width": 8},
    ],
}


@pytest.mark.parametrize("section", [TOY, CROSS], ids=["unified", "cross_attention"])
def test_the_plan_counts_what_the_build_makes(section: dict[str, Any]) -> None:
    plan, model = vlmzoo.plan(section), vlmzoo.build(section)
    made = {name: sum(p.numel() for p in part.parameters()) for name, part in model.parts.items()}
    # The build adds one embedding row for the image placeholder that this tokenizer does not have.
    made["language"] -= model.language.width
    assert {part.part: part.parameters for part in plan.parts} == made
    assert plan.image_tokens == model.image_shape.count
    assert plan.text_slots == model.processor.image_token.slots
    assert plan.blocks == (() if section is TOY else (1,))
    assert all(part.weight_bytes == 4 * part.parameters and part.trained == 0 for part in plan.parts)


def test_a_stage_says_what_trains_and_what_that_costs(tmp_path: Path) -> None:
    stage = {
        "name": "align",
        "objective": "caption",
        "data": [{"name": "captions", "path": "rows.jsonl", "images": "."}],
        "train": {"connector": {"lr": 1e-3}},
        "batch_size": 2,
        "steps": 1,
    }
    plan = vlmzoo.plan({"model": TOY, "stages": [stage]})
    by_name = {part.part: part for part in plan.parts}
    assert plan.stage == "align"
    assert by_name["connector"].trained == by_name["connector"].parameters
    assert by_name["connector"].training_bytes == (4 + 8) * by_name["connector"].trained
    assert by_name["vision"].trained == by_name["language"].trained == 0


LARGE = """
import resource, sys, time
import vlmzoo
from vlmzoo_registry import default_catalogue

default_catalogue()
began = time.process_time()
plan = vlmzoo.plan({section!r})
print(sum(part.parameters for part in plan.parts), plan.image_tokens, time.process_time() - began)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_model_of_70_billion_parameters_is_planned_in_no_memory() -> None:
    section = {
        "architecture": "cross_attention",
        "vision": {"name": "transformers/vision", "config": VIT_L, "layers": [-2]},
        "connector": [{"name": "connectors/linear"}, {"name": "connectors/cross-attention", "every": 5, "form": "llama"}],
        "language": {"name": "transformers/causal-lm", "config": LLAMA_70B, "dtype": "bfloat16"},
        "template": "plain",
    }
    done = subprocess.run(
        [sys.executable, "-c", LARGE.format(section=section)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    parameters, tokens, _, peak = done.stdout.split()
    assert int(parameters) > 70e9
    assert int(tokens) == 576
    assert int(peak) < 4 * 2**30


def test_nothing_is_downloaded_and_no_weight_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

    folder = tmp_path / "language"
    AutoConfig.for_model(
        "llama", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    ).save_pretrained(folder)

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("the plan opened a connection or read weights")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refused)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refused)
    before = torch.get_rng_state()
    plan = vlmzoo.plan({**TOY, "language": {"name": "transformers/causal-lm", "model": str(folder)}})
    assert torch.equal(torch.get_rng_state(), before)
    assert next(part for part in plan.parts if part.part == "language").parameters > 1e6


def test_every_reason_at_once() -> None:
    section = {
        "architecture": "unified",
        "vision": {"name": "transformers/vision", "model": "nobody/tower"},
        "connector": [{"name": "connectors/mlp"}],
        "language": {"name": "transformers/causal-lm", "model": "nobody/language"},
        "template": "plain",
    }
    with pytest.raises(AssemblyError) as error:
        vlmzoo.plan(section)
    vision, language = error.value.reasons
    assert vision.startswith(
        "`vision` (transformers/vision): `model` (='nobody/tower'): no transformers config was found on this"
    )
    assert language.startswith("`language` (transformers/causal-lm): `model` (='nobody/language'): no transformers config was")
    assert "or write the architecture under `config:`" in language


def test_misfits_are_found_without_values() -> None:
    with pytest.raises(AssemblyError) as error:
        vlmzoo.plan({**TOY, "connector": [{"name": "connectors/pixel-shuffle", "factor": 3}, {"name": "connectors/mlp"}]})
    assert len(error.value.reasons) >= 1
    assert "`connector.0` (connectors/pixel-shuffle)" in error.value.reasons[0]
    assert "4" in error.value.reasons[0] and "3" in error.value.reasons[0]
    with pytest.raises(AssemblyError, match=r"`layers` names \[9\], and the decoder has 2 layers: the last is 1"):
        vlmzoo.plan({**CROSS, "connector": [{"name": "connectors/cross-attention", "layers": [9], "heads": 2}]})
