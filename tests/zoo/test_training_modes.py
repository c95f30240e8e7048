"""What trains in each mode: which parameters, which modules are in training mode, and what cannot be."""

from typing import Any

import pytest
import torch
from small_models import GPT2, LLAMA, causal_lm, section
from torch import nn

import vlmzoo
from vlmzoo.config import TrainBias, TrainFull, TrainLast, TrainNorms
from vlmzoo.model.vlm import VLM
from vlmzoo.training.trainable import set_trainable
from vlmzoo_registry import AssemblyError, VisionEncoder

LAST = TrainLast(mode="last", lr=1e-3, layers=1)
TIMM_VIT = {"name": "timm/encoder", "config": {"architecture": "test_vit"}}
TIMM_CNN = {"name": "timm/encoder", "config": {"architecture": "test_efficientnet"}, "final_norm": True}
CLIP_CONFIG = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
CLIP = {"name": "transformers/vision", "config": CLIP_CONFIG, "layers": [-2], "final_norm": False, "prefix": "drop"}


OPEN_CLIP_VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
OPEN_CLIP_RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
OPEN_CLIP_TIMM = {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token", "timm_proj": "linear"}
MLLAMA = {
    "model_type": "mllama_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_global_layers": 1,
    "attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
    "max_num_tiles": 2,
    "vision_output_dim": 96,
    "intermediate_layers_indices": [0, 2],
    "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
}


def open_clip(vision: dict, **options: Any) -> dict:
    return {"name": "open_clip/encoder", "config": {"embed_dim": 16, "quick_gelu": False, "vision_cfg": vision}, **options}


def trained(model: VLM, part: str, settings: TrainFull | TrainLast | TrainNorms | TrainBias) -> set[str]:
    states = set_trainable(model, {part: settings})
    by_grad = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = {f"{state.name}.{name}" for state in states for name in state.trained}
    assert by_grad == names
    assert {f"{state.name}.{name}" for state in states for name in state.frozen} == {
        n for n, _ in model.named_parameters()
    } - names
    return {name.removeprefix(f"{part}.") for name in names}


def refusal(model: VLM, part: str, settings: TrainLast | TrainNorms | TrainBias) -> str:
    with pytest.raises(AssemblyError) as refused:
        set_trainable(model, {part: settings})
    return str(refused.value)


def under(names: dict[str, nn.Parameter] | list[str], *prefixes: str) -> set[str]:
    return {name for name in names if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("part", "model", "prefix"),
    [
        ("language", section(), "layers.1."),
        ("language", section(language=causal_lm(LLAMA)), "model.model.layers.1."),
        ("language", section(language=causal_lm(GPT2)), "model.transformer.h.1."),
        ("vision", section(vision={"name": "toy/vision", "depth": 3}), "blocks.2."),
        ("vision", section(vision={"name": "toy/vision", "depth": 3, "layers": [0, -2]}), "blocks.1."),
        ("vision", section(vision=TIMM_VIT), "model.blocks.5."),
        ("vision", section(vision=TIMM_CNN), "model.blocks.4."),
        ("vision", section(vision=CLIP), "model.encoder.layers.2."),  # 3 is past the tapped one
        ("vision", section(vision=open_clip(OPEN_CLIP_VIT)), "tower.transformer.resblocks.2."),
        ("vision", section(vision=open_clip(OPEN_CLIP_VIT, layers=[-2])), "tower.transformer.resblocks.1."),
        ("vision", section(vision=open_clip(OPEN_CLIP_RESNET)), "tower.layer4."),
        ("vision", section(vision=open_clip(OPEN_CLIP_RESNET, layers=[2])), "tower.layer2."),
        ("vision", section(vision=open_clip(OPEN_CLIP_TIMM)), "tower.trunk.blocks.5."),
        ("vision", section(vision={"name": "timm/encoder", "config": {"architecture": "test_resnet"}}), "model.layer4."),
        (
            "vision",
            section(vision={"name": "transformers/mllama-vision", "config": MLLAMA}),
            "model.global_transformer.layers.0.",
        ),
    ],
)
def test_the_last_block_trains_and_nothing_else(part: str, model: dict, prefix: str) -> None:
    """Not what follows the last block (a norm, a head's convolution), nor embeddings, nor blocks that no output depends on."""
    vlm = vlmzoo.build(model)
    expected = under(dict(vlm.parts[part].named_parameters()), prefix)
    assert expected
    assert trained(vlm, part, LAST) == expected


@pytest.mark.parametrize("vision", [TIMM_VIT, CLIP])
def test_all_blocks_are_not_the_whole_part(vision: dict) -> None:
    vlm = vlmzoo.build(section(vision=vision))
    parameters = {name for name in dict(vlm.vision.named_parameters()) if name not in vlm.vision.unused_parameters}
    count = 3 if vision is CLIP else 6
    blocks = trained(vlm, "vision", TrainLast(mode="last", lr=1.0, layers=count))
    assert blocks == {name for name in parameters if ".blocks." in f".{name}" or ".layers." in f".{name}"}
    assert blocks < parameters


@pytest.mark.parametrize(
    ("model", "part", "layers", "blocks"),
    [(section(), "language", 3, 2), (section(vision=CLIP), "vision", 4, 3)],
)
def test_more_layers_than_there_are_blocks(model: dict, part: str, layers: int, blocks: int) -> None:
    message = refusal(vlmzoo.build(model), part, TrainLast(mode="last", lr=1.0, layers=layers))
    assert message == (
        f"the stage cannot train what it names\n  - `train.{part}`: `layers` (={layers}) must be at most the number of blocks "
        f"that the part uses (={blocks})"
    )


def test_a_connector_has_no_last_block() -> None:
    assert refusal(vlmzoo.build(section()), "connector", LAST) == (
        "the stage cannot train what it names\n  - `train.connector`: a connector has no blocks to count from the end: use "
        "`mode: full`"
    )


def test_an_encoder_that_names_no_blocks_says_how_to() -> None:
    vlm = vlmzoo.build(section())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(vlm.vision), "encoder_blocks", VisionEncoder.encoder_blocks)
        assert refusal(vlm, "vision", LAST) == (
            "the stage cannot train what it names\n  - `train.vision`: `ToyVision` names no `encoder_blocks`, which `mode: "
            "last` counts and `mode: lora` adapts: train it with `mode: full`, or let its class say `encoder_blocks`"
        )


def test_every_reason_is_said_and_nothing_is_changed() -> None:
    vlm = vlmzoo.build(section())
    many = TrainLast(mode="last", lr=1.0, layers=9)
    with pytest.raises(AssemblyError) as refused:
        set_trainable(vlm, {"vision": many, "connector": LAST, "language": many})
    assert [reason.split("`")[1] for reason in refused.value.reasons] == ["train.vision", "train.connector", "train.language"]
    assert all(parameter.requires_grad for parameter in vlm.parameters())


@pytest.mark.parametrize("language", [causal_lm(LLAMA), causal_lm(GPT2), {"name": "toy/language"}])
def test_norms_are_found_by_their_form(language: dict) -> None:
    """LLaMA's own RMSNorm class too, and no linear layer, embedding or bias of one."""
    vlm = vlmzoo.build(section(language=language))
    kinds = ("LayerNorm", "RMSNorm")
    expected = {
        f"{name}.{own}"
        for name, module in vlm.language.named_modules()
        if type(module).__name__.endswith(kinds)
        for own, _ in module.named_parameters(recurse=False)
    }
    assert expected
    assert trained(vlm, "language", TrainNorms(mode="norms", lr=1.0)) == expected


def test_norms_of_a_convolutional_encoder_are_its_batch_norms() -> None:
    vlm = vlmzoo.build(section(vision=TIMM_CNN))
    expected = {
        f"{name}.{own}"
        for name, module in vlm.vision.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for own, _ in module.named_parameters(recurse=False)
    }
    assert trained(vlm, "vision", TrainNorms(mode="norms", lr=1.0)) == expected


def test_biases_are_all_and_only_biases() -> None:
    vlm = vlmzoo.build(section(language=causal_lm(GPT2)))
    named = dict(vlm.language.named_parameters())
    chosen = trained(vlm, "language", TrainBias(mode="bias", lr=1.0))
    assert chosen == {name for name in named if name.endswith(".bias")}
    assert all(named[name].ndim == 1 for name in chosen)


def test_a_family_without_biases_cannot_train_them() -> None:
    assert refusal(vlmzoo.build(section(language=causal_lm(LLAMA))), "language", TrainBias(mode="bias", lr=1.0)) == (
        "the stage cannot train what it names\n  - `train.language`: the part has no biases; leave it out"
    )


def test_frozen_blocks_of_a_part_that_trains_stay_in_evaluation_mode() -> None:
    """Their batch norms count nothing and their dropout drops nothing; those of the last block do."""
    vlm = vlmzoo.build(section(vision=TIMM_CNN))
    set_trainable(vlm, {"vision": LAST})
    counters = {name: module for name, module in vlm.vision.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: module.running_mean.clone() for name, module in counters.items()}
    vlm.vision(torch.rand(2, 3, vlm.vision.transform.height, vlm.vision.transform.width))
    for name, module in counters.items():
        inside = name.startswith("model.blocks.4.")
        assert module.training == inside, name
        assert torch.equal(before[name], module.running_mean) != inside, name
    assert any(name.startswith("model.blocks.4.") for name in counters)


def test_constants_do_not_train() -> None:
    """Position embeddings of sines are a parameter that open_clip never trains."""
    vlm = vlmzoo.build(section(vision=open_clip({**OPEN_CLIP_VIT, "pos_embed_type": "sin_cos_2d"})))
    names = trained(vlm, "vision", TrainFull(lr=1.0))
    assert names == dict(vlm.vision.named_parameters()).keys() - {"tower.positional_embedding"}


def test_the_table_says_what_of_a_part_trains() -> None:
    vlm = vlmzoo.build(section())
    states = set_trainable(vlm, {"vision": TrainNorms(mode="norms", lr=1.0), "language": LAST})
    assert [(state.name, state.mode, state.how) for state in states] == [
        ("vision", "norms", "norms"),
        ("connector", "frozen", "frozen"),
        ("language", "last", "last 1 of 2 blocks"),
    ]
