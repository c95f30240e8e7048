"""What is loaded in a new process is what was saved, to the last bit; with no pickle and no connection on the way."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from safetensors.torch import load_file, save_file
from small_models import GPT2, LLAMA, causal_lm, section, shake

import vlmzoo

TIMM: dict[str, dict[str, Any]] = {
    # Buffers that no checkpoint keeps: rotary tables (EVA-02, DINOv3), relative positions and masks (Swin).
    "eva02": {
        "architecture": "eva02_tiny_patch14_224",
        "img_size": 28,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
    },
    "dinov3": {"architecture": "vit_small_patch16_dinov3", "img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "swin": {
        "architecture": "swin_tiny_patch4_window7_224",
        "img_size": 56,
        "embed_dim": 16,
        "depths": [1, 2],
        "num_heads": [1, 2],
    },
    # Running means that it does keep.
    "batch norm": {"architecture": "test_efficientnet"},
}
CASES: dict[str, dict[str, Any]] = {
    "unified": section(),
    "cross_attention": section("cross_attention"),
    "chain": section(
        "cross_attention",
        connector=[
            {"name": "connectors/resampler", "queries": 3, "depth": 1, "heads": 2, "head_width": 8},
            {"name": "connectors/cross-attention", "layers": [1], "heads": 2, "head_width": 8, "place": "after"},
        ],
    ),
    "tied llama": section(language=causal_lm({**LLAMA, "tie_word_embeddings": True})),
    "untied llama": section("cross_attention", language=causal_lm(LLAMA)),
    "tied gpt2": section("cross_attention", language=causal_lm(GPT2)),
    "bfloat16 language": section(language=causal_lm(LLAMA, dtype="bfloat16")),
    "clip": section(
        vision={
            "name": "transformers/vision",
            "config": {
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 32,
                "patch_size": 8,
            },
            "layers": [-2],
        }
    ),
    **{f"timm {name}": section(vision={"name": "timm/encoder", "config": config}) for name, config in TIMM.items()},
}
SCRIPT = """
import sys
events = []
armed = [False]
def watch(event, args):
    if armed[0] and event in ("pickle.find_class", "socket.connect", "socket.getaddrinfo"):
        events.append(f"{event} {args}")
sys.addaudithook(watch)

import json
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
import vlmzoo

root = Path(sys.argv[1])
report = {}
for folder in sorted(root.glob("*.checkpoint")):
    armed[0] = True
    model = vlmzoo.load(folder)
    armed[0] = False
    batch = load_file(root / f"{folder.stem}.batch")
    batch["image_mask"] = batch["image_mask"].bool()
    with torch.no_grad():
        logits = model(**batch).logits
        ids = model.generate(**batch, max_new_tokens=4, do_sample=False)
    save_file({"logits": logits, "ids": ids}, root / f"{folder.stem}.there")
    armed[0] = True
    model.save_pretrained(root / f"{folder.stem}.again")
    armed[0] = False
    own = getattr(model.language, "model", None)
    report[folder.stem] = {
        "training": any(module.training for module in model.modules()),
        "tied": own and own.get_input_embeddings().weight is own.get_output_embeddings().weight,
        "text": model.processor.tokenizer("A b\\u00e9  <image>?").input_ids,
    }
(root / "report.json").write_text(json.dumps({"events": events, "cases": report}))
"""


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Every case saved here, loaded and saved again by one other process."""
    root = tmp_path_factory.mktemp("reload")
    texts = {}
    for name, config in CASES.items():
        torch.manual_seed(7)
        model = shake(vlmzoo.build(config))
        batch = small_models.batch(model)
        with torch.no_grad():
            logits = model(**batch).logits
            ids = model.generate(**batch, max_new_tokens=4, do_sample=False)
        assert torch.isfinite(logits).all()
        save_file({"logits": logits, "ids": ids}, root / f"{name}.here")
        save_file({key: value.contiguous() for key, value in batch.items()}, root / f"{name}.batch")
        model.save_pretrained(root / f"{name}.checkpoint")
        texts[name] = model.processor.tokenizer("A b\u00e9  <image>?").input_ids
    subprocess.run([sys.executable, "-c", SCRIPT, str(root)], check=True, timeout=300)
    return root, {**json.loads((root / "report.json").read_text()), "texts": texts}


@pytest.mark.parametrize("name", CASES)
def test_bitwise_equal_in_a_new_process(name: str, reloaded: tuple[Path, dict[str, Any]]) -> None:
    root, report = reloaded
    here, there = load_file(root / f"{name}.here"), load_file(root / f"{name}.there")
    assert torch.equal(here["logits"], there["logits"])
    assert torch.equal(here["ids"], there["ids"])
    assert report["cases"][name]["training"] is False
    assert report["cases"][name]["text"] == report["texts"][name]


@pytest.mark.parametrize("name", CASES)
def test_saved_again_every_file_is_the_same(name: str, reloaded: tuple[Path, dict[str, Any]]) -> None:
    root, _ = reloaded
    first, second = root / f"{name}.checkpoint", root / f"{name}.again"
    assert sorted(file.name for file in first.iterdir()) == sorted(file.name for file in second.iterdir())
    assert [f.name for f in first.iterdir() if f.read_bytes() != (second / f.name).read_bytes()] == []


def test_no_pickle_and_no_connection(reloaded: tuple[Path, dict[str, Any]]) -> None:
    root, report = reloaded
    assert report["events"] == []
    kinds = {file.suffix for folder in root.glob("*.checkpoint") for file in folder.iterdir()}
    assert kinds <= {".safetensors", ".json", ".jinja", ".txt"}


def test_tied_heads_stay_tied_and_are_kept_once(reloaded: tuple[Path, dict[str, Any]]) -> None:
    root, report = reloaded
    tied = {name: case["tied"] for name, case in report["cases"].items() if case["tied"] is not None}
    assert tied == {"tied llama": True, "tied gpt2": True, "untied llama": False, "bfloat16 language": False}
    heads = [key for key in load_file(root / "tied llama.checkpoint" / "language.safetensors") if "lm_head" in key]
    assert heads == []


def test_bfloat16_stays_bfloat16(reloaded: tuple[Path, dict[str, Any]]) -> None:
    root, _ = reloaded
    tensors = load_file(root / "bfloat16 language.checkpoint" / "language.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
