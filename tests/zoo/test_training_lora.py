"""Low-rank adapters: where they go, that they train alone, that peft reads what is saved, and how stages go on with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from small_models import GPT2, LLAMA, TOY_LANGUAGE, batch, causal_lm, section, shake
from torch import Tensor, nn

import vlmzoo
from vlmzoo.adapters import adapter_parameters
from vlmzoo.checkpoint import load_part
from vlmzoo.config import TrainFull, TrainLast, TrainLora
from vlmzoo.manifest import verify, write_manifest
from vlmzoo.model.tensors import own_tensors
from vlmzoo.model.vlm import VLM
from vlmzoo.training.optimization import make_optimizer, set_rates
from vlmzoo.training.trainable import set_trainable
from vlmzoo_registry import AssemblyError, CheckpointError

LORA = TrainLora(mode="lora", lr=1e-2, rank=4)
CLIP = {
    "name": "transformers/vision",
    "config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    },
    "layers": [-2],
    "final_norm": False,
    "prefix": "drop",
}
OPEN_CLIP = {
    "name": "open_clip/encoder",
    "config": {
        "embed_dim": 16,
        "quick_gelu": False,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    },
    "layers": [-1],
    "final_norm": False,
    "prefix": "drop",
}
TIMM_VIT = {"name": "timm/encoder", "config": {"architecture": "test_vit"}}
LANGUAGES = {"llama": causal_lm(LLAMA), "gpt2": causal_lm(GPT2), "toy": TOY_LANGUAGE}


def refusal(action: Callable[[], object], kind: type[Exception] = AssemblyError) -> str:
    with pytest.raises(kind) as refused:
        action()
    return str(refused.value)


def build(model: dict[str, Any]) -> VLM:
    """The same weights every time."""
    torch.manual_seed(0)
    return vlmzoo.build(model)


def adapted(part: nn.Module) -> set[str]:
    return {name for name, module in part.named_modules() if isinstance(module, LoraLayer)}


def logits(model: VLM) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(**batch(model)).logits


def train(model: VLM, settings: dict[str, Any], steps: int = 3) -> VLM:
    states = set_trainable(model, settings)
    optimizer = make_optimizer(states)
    inputs = batch(model)
    for step in range(steps):
        set_rates(optimizer, states, step, steps, 0.0, "constant")
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


# ---- where adapters go -----------------------------------------------------------------------------------------------------

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.mark.parametrize(
    ("model", "part", "expected"),
    [
        (
            section(language=causal_lm(LLAMA)),
            "language",
            {f"model.model.layers.{i}.self_attn.{name}" for i in (0, 1) for name in PROJECTIONS}
            | {f"model.model.layers.{i}.mlp.{name}" for i in (0, 1) for name in ("gate_proj", "up_proj", "down_proj")},
        ),
        (
            section(language=causal_lm(GPT2)),
            "language",
            {f"model.transformer.h.{i}.{n}" for i in (0, 1) for n in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")},
        ),
        (
            section(),
            "language",
            {f"layers.{i}.{n}" for i in (0, 1) for n in ("query_key_value", "output", "feedforward.0", "feedforward.2")},
        ),
        (
            section(vision=CLIP),  # block 2 is past the tapped one
            "vision",
            {f"model.encoder.layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in ("q", "k", "v", "out")}
            | {f"model.encoder.layers.{i}.mlp.{n}" for i in (0, 1) for n in ("fc1", "fc2")},
        ),
        (
            section(vision=OPEN_CLIP),  # not the attention's output projection, which is never called
            "vision",
            {f"tower.transformer.resblocks.{i}.mlp.{n}" for i in (0, 1) for n in ("c_fc", "c_proj")},
        ),
        (
            section(vision=TIMM_VIT),
            "vision",
            {f"model.blocks.{i}.{n}" for i in range(6) for n in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")},
        ),
        (section(), "connector", {"0.module.0", "0.module.2"}),
    ],
)
def test_linear_layers_of_the_blocks_get_one_each_and_nothing_else(model: dict, part: str, expected: set[str]) -> None:
    """Neither embeddings, nor the head, nor what stands around the blocks; and at first nothing comes out differently."""
    vlm = vlmzoo.build(model)
    before, names = logits(vlm), set(own_tensors(vlm.parts[part]))
    states = set_trainable(vlm, {part: LORA})
    assert adapted(vlm.parts[part]) == expected
    assert not any(adapted(other) for name, other in vlm.parts.items() if name != part)
    trained = {f"{part}.{name}" for state in states for name in state.trained}
    assert trained == {name for name, parameter in vlm.named_parameters() if parameter.requires_grad}
    assert trained == {f"{part}.{n}.lora_{k}.default.weight" for n in expected for k in "AB"}
    assert set(own_tensors(vlm.parts[part])) == names
    assert torch.equal(logits(vlm), before)


def test_targets_narrow_it() -> None:
    vlm = vlmzoo.build(section(language=causal_lm(LLAMA)))
    set_trainable(vlm, {"language": TrainLora(mode="lora", lr=1.0, rank=2, targets=("v_proj", "1.self_attn.q_proj"))})
    layers = "model.model.layers"
    assert adapted(vlm.language) == {
        f"{layers}.0.self_attn.v_proj",
        f"{layers}.1.self_attn.v_proj",
        f"{layers}.1.self_attn.q_proj",
    }


def test_targets_that_are_no_layer_are_named_all_at_once() -> None:
    vlm = vlmzoo.build(section(language=causal_lm(LLAMA)))
    targets = ("q_porj", "lm_head", "embed_tokens")
    message = refusal(lambda: set_trainable(vlm, {"language": TrainLora(mode="lora", lr=1.0, rank=2, targets=targets)}))
    known = "(they end in: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj)"
    assert message.splitlines() == [
        "the stage cannot train what it names",
        "  - `train.language`: `targets` names `q_porj`, and no linear layer of its blocks ends so; did you mean `q_proj`? "
        + known,
        f"  - `train.language`: `targets` names `lm_head`, and no linear layer of its blocks ends so {known}",
        f"  - `train.language`: `targets` names `embed_tokens`, and no linear layer of its blocks ends so {known}",
    ]
    assert not adapted(vlm.language)


def test_a_convolutional_encoder_has_no_layer_for_them() -> None:
    vlm = vlmzoo.build(section(vision={"name": "timm/encoder", "config": {"architecture": "test_efficientnet"}}))
    assert refusal(lambda: set_trainable(vlm, {"vision": LORA})) == (
        "the stage cannot train what it names\n  - `train.vision`: there is no linear layer in it for an adapter (convolutions "
        "get none); use another mode"
    )


def test_the_part_stays_and_the_adapters_move() -> None:
    vlm = vlmzoo.build(section(language=causal_lm({**LLAMA, "tie_word_embeddings": True}, dtype="bfloat16")))
    before = {name: tensor.clone() for name, tensor in own_tensors(vlm).items()}
    tied = vlm.language.embedding.weight
    train(vlm, {"language": LORA})
    assert vlm.language.model.lm_head.weight is vlm.language.embedding.weight is tied
    after = own_tensors(vlm)
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    for name, parameter in adapter_parameters(vlm.language).items():
        assert parameter.dtype == torch.float32  # and so has no master: bf16 would round its steps away
        assert bool(parameter.any()), name


# ---- files -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["unified", "cross_attention"])
def trained(request: pytest.FixtureRequest) -> VLM:
    model = shake(build(section(request.param, language=causal_lm(LLAMA))))
    return train(model, {"language": LORA, "vision": LORA, "connector": TrainFull(lr=1e-3)})


def test_base_files_stay_as_they_were_and_adapters_lie_beside(tmp_path: Path) -> None:
    model = shake(build(section(language=causal_lm(LLAMA))))
    model.save_pretrained(tmp_path / "base")
    train(model, {"language": LORA}).save_pretrained(tmp_path / "adapted")
    for file in ("vision.safetensors", "connector.safetensors", "language.safetensors", "model.safetensors.index.json"):
        assert (tmp_path / "base" / file).read_bytes() == (tmp_path / "adapted" / file).read_bytes()
    folder = tmp_path / "adapted" / "adapters" / "language"
    files = {f"adapters/language/{file.name}" for file in folder.iterdir()}
    assert files == {"adapters/language/adapter_model.safetensors", "adapters/language/adapter_config.json"}
    assert files <= verify(tmp_path / "adapted").files.keys()
    described = json.loads((folder / "adapter_config.json").read_text())
    assert (described["peft_type"], described["r"], described["lora_alpha"]) == ("LORA", 4, 8.0)


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_peft_reads_what_is_saved(language: dict, tmp_path: Path) -> None:
    """peft's own `PeftModel`, on the same part without adapters, computes the same hidden states."""
    model = train(shake(build(section(language=language))), {"language": LORA})
    model.save_pretrained(tmp_path / "model")
    embeddings = torch.randn(2, 5, model.language.width)
    with torch.no_grad():
        expected = model.language.decode(embeddings)
    base = shake(build(section(language=language))).language
    with torch.no_grad():
        assert not torch.allclose(base.decode(embeddings), expected, atol=1e-3)
    shell = nn.Module()  # the toy's own `config` is none that peft understands
    shell._modules = base._modules
    PeftModel.from_pretrained(shell, str(tmp_path / "model" / "adapters" / "language"))
    with torch.no_grad():
        assert torch.equal(base.eval().decode(embeddings), expected)


def test_a_checkpoint_gives_the_model_back_and_it_speaks(trained: VLM, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "model")
    loaded = vlmzoo.load(tmp_path / "model")
    assert torch.equal(logits(loaded), logits(trained))
    assert adapted(loaded.language) == adapted(trained.language) == loaded.adapters["language"].layers
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    said = [model.generate(**batch(model), max_new_tokens=4, do_sample=False) for model in (loaded, trained)]
    assert torch.equal(*said)
    loaded.save_pretrained(tmp_path / "again")
    files = [path.relative_to(tmp_path / "model") for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes(), file


def test_many_layers_survive_pefts_shortening_of_names(tmp_path: Path) -> None:
    """peft shortens the list of layers where it is long; on reading, the same layers must come out."""
    deep = {**LLAMA, "num_hidden_layers": 5}
    model = train(vlmzoo.build(section(language=causal_lm(deep))), {"language": LORA}, steps=1)
    model.save_pretrained(tmp_path / "model")
    described = json.loads((tmp_path / "model" / "adapters" / "language" / "adapter_config.json").read_text())
    assert len(described["target_modules"]) < len(adapted(model.language)) == 35
    assert adapted(vlmzoo.load(tmp_path / "model").language) == adapted(model.language)


def test_a_checkpoint_with_adapters_is_replaced_whole(trained: VLM, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "model")
    trained.save_pretrained(tmp_path / "model")
    train(trained, {part: TrainFull(lr=1e-3) for part in ("vision", "language")}).save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "adapters").exists()
    (tmp_path / "model" / "adapters" / "mine").mkdir(parents=True)
    message = refusal(lambda: trained.save_pretrained(tmp_path / "model"), CheckpointError)
    assert "also holds adapters, adapters/mine, which would be lost" in message


@pytest.mark.parametrize("change", ["cut", "gone", "flipped", "surplus", "linked"])
def test_damaged_adapters_are_named(change: str, tmp_path: Path) -> None:
    model = train(vlmzoo.build(section()), {"language": LORA})
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "adapters" / "language" / "adapter_model.safetensors"
    content = file.read_bytes()
    if change == "cut":
        file.write_bytes(content[:-3])
    elif change == "gone":
        file.unlink()
    elif change == "flipped":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "surplus":
        (file.parent.parent / "vision").mkdir()
        (file.parent.parent / "vision" / "adapter_model.safetensors").write_bytes(content)
    else:
        file.parent.rename(tmp_path / "elsewhere")
        file.parent.symlink_to(tmp_path / "elsewhere")
    message = refusal(lambda: vlmzoo.load(tmp_path / "model"), CheckpointError)
    expected = {
        "cut": "adapters/language/adapter_model.safetensors: ",
        "gone": "adapters/language/adapter_model.safetensors: missing",
        "flipped": "adapters/language/adapter_model.safetensors: its SHA-256 differs",
        "surplus": "adapters/vision/adapter_model.safetensors: holds weights, but is not recorded",
        "linked": "'adapters/language/adapter_model.safetensors': not a plain file of the folder",
    }
    assert expected[change] in message


@pytest.mark.parametrize("change", ["missing", "surplus", "shape", "gone", "no safetensors"])
def test_adapters_whose_tensors_are_others_are_refused(change: str, tmp_path: Path) -> None:
    """With a manifest that is right: the digests say nothing here."""
    model = train(vlmzoo.build(section()), {"language": LORA})
    model.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "adapters" / "language" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.layers.0.output.lora_A.weight"
    if change == "missing":
        del tensors[name]
    elif change == "surplus":
        tensors["base_model.model.head.lora_A.weight"] = torch.zeros(4, 32)
    else:
        tensors[name] = tensors[name][:2].clone()
    save_file(tensors, file)
    if change == "gone":
        file.unlink()
    elif change == "no safetensors":
        file.write_bytes(b"adapters")
    (tmp_path / "model" / "manifest.json").unlink()
    write_manifest(tmp_path / "model", model.components, {})
    expected = {
        "missing": f"language.{name}: the model's adapters have it, the checkpoint's do not",
        "surplus": "language.base_model.model.head.lora_A.weight: the checkpoint's adapters have it, the model's do not",
        "shape": f"language.{name}: [2, 32] float32 in the checkpoint, [4, 32] float32 in the model",
        "gone": f"`{file}` is not a whole safetensors file (No such file or directory",
        "no safetensors": f"`{file}` is not a whole safetensors file (",
    }
    assert expected[change] in refusal(lambda: vlmzoo.load(tmp_path / "model"), CheckpointError)


def test_adapters_that_would_not_be_saved_stop_the_saving(tmp_path: Path) -> None:
    """Saving less than was trained is refused: adapters that somebody put there by hand, and a second one on the same layer."""
    model = vlmzoo.build(section(language=causal_lm(LLAMA)))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), model.language)
    message = refusal(lambda: model.save_pretrained(tmp_path / "model"), CheckpointError)
    assert "language.model.model.layers.0.self_attn.q_proj: adapted, and vlmzoo has not done that" in message
    model = train(vlmzoo.build(section(language=causal_lm(LLAMA))), {"language": LORA})
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), model.language, adapter_name="second")
    message = refusal(lambda: model.save_pretrained(tmp_path / "model"), CheckpointError)
    assert (
        "language.model.model.layers.0.self_attn.q_proj.lora_A.second.weight: of an adapter that vlmzoo has not put there, and "
        "does not save"
    ) in message
    assert not (tmp_path / "model").exists()


def test_a_part_alone_is_loaded_only_with_the_same_adapters(tmp_path: Path) -> None:
    model = train(shake(build(section())), {"language": LORA})
    model.save_pretrained(tmp_path / "adapted")
    plain = vlmzoo.build(section())
    plain.save_pretrained(tmp_path / "plain")
    before = logits(plain)
    load = refusal(lambda: load_part(plain, "language", tmp_path / "adapted"), CheckpointError)
    assert load.endswith("its language has adapters, and the model's has none: load the whole checkpoint instead")
    load = refusal(lambda: load_part(model, "language", tmp_path / "plain"), CheckpointError)
    assert load.endswith("its language has no adapters, and the model's has some: load the whole checkpoint instead")
    assert torch.equal(logits(plain), before)
    again = train(vlmzoo.build(section()), {"language": LORA}, steps=1)
    for part in ("vision", "connector", "language"):
        load_part(again, part, tmp_path / "adapted")
    assert torch.equal(logits(again), logits(model))


# ---- in stages -------------------------------------------------------------------------------------------------------------


def test_a_later_stage_goes_on_with_the_same_adapters(tmp_path: Path) -> None:
    model = train(vlmzoo.build(section()), {"language": LORA})
    model.save_pretrained(tmp_path / "model")
    loaded = vlmzoo.load(tmp_path / "model")
    before = {name: parameter.clone() for name, parameter in adapter_parameters(loaded.language).items()}
    states = set_trainable(loaded, {"language": TrainLora(mode="lora", lr=1e-5, rank=4, weight_decay=0.1)})
    assert {state.name: state.how for state in states}["language"] == "lora, rank 4 on 8 layers"
    assert all(torch.equal(parameter, before[name]) for name, parameter in adapter_parameters(loaded.language).items())
    assert torch.equal(logits(train(model, {"language": LORA})), logits(train(loaded, {"language": LORA})))


def test_a_later_stage_that_freezes_the_part_keeps_them() -> None:
    model = train(vlmzoo.build(section()), {"language": LORA})
    before = {name: parameter.clone() for name, parameter in adapter_parameters(model.language).items()}
    states = set_trainable(model, {"connector": TrainFull(lr=1e-3)})
    assert states[2].how == "frozen, with lora, rank 4 on 8 layers"
    assert states[2].frozen.keys() == dict(model.language.named_parameters()).keys()
    train(model, {"connector": TrainFull(lr=1e-3)})
    assert all(torch.equal(parameter, before[name]) for name, parameter in adapter_parameters(model.language).items())


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
@pytest.mark.parametrize("settings", [TrainFull(lr=1e-9), TrainLast(mode="last", lr=1e-9, layers=1)])
def test_another_mode_merges_them_and_says_so(language: dict, settings: Any, tmp_path: Path) -> None:
    fresh = shake(build(section(language=language)))
    model = train(shake(build(section(language=language))), {"language": LORA})
    before, plain = logits(model), logits(fresh)
    states = set_trainable(model, {"language": settings})
    assert states[2].how in ("full, adapters merged", "last 1 of 2 blocks, adapters merged")
    assert not adapted(model.language) and not model.adapters
    assert dict(model.named_parameters()).keys() == dict(fresh.named_parameters()).keys()
    assert torch.allclose(logits(model), before, atol=1e-5)
    assert not torch.allclose(before, plain, atol=1e-3)
    model.save_pretrained(tmp_path / "model")
    assert torch.equal(logits(vlmzoo.load(tmp_path / "model")), logits(model))


def test_other_settings_than_before_are_refused_with_both() -> None:
    model = train(vlmzoo.build(section()), {"language": LORA})
    other = TrainLora(mode="lora", lr=1e-3, rank=8, alpha=4, targets=("output",))
    assert refusal(lambda: set_trainable(model, {"language": other})) == (
        "the stage cannot train what it names\n  - `train.language`: the part has adapters from an earlier stage, of rank 4, "
        "alpha 8, dropout 0 on 8 layers, and this one asks for rank 8, alpha 4, dropout 0 on 2 layers: give the same settings, "
        "and it goes on with them (any other mode merges them)"
    )


# ---- modes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
@pytest.mark.parametrize("part", ["vision", "connector", "language"])
def test_what_is_loaded_answers_without_dropout(architecture: str, part: str, tmp_path: Path) -> None:
    """Nobody has to call `eval()`: greedy answers of a loaded checkpoint would differ from one call to the next."""
    model = build(section(architecture, vision=CLIP, language=causal_lm(LLAMA)))
    settings = TrainLora(mode="lora", lr=1e-2, rank=4, dropout=0.9)
    train(model, {part: settings}).save_pretrained(tmp_path)
    loaded = vlmzoo.load(tmp_path)
    assert any(isinstance(module, nn.Dropout) and module.p == 0.9 for module in loaded.parts[part].modules())
    assert not [name for name, module in loaded.named_modules() if module.training]
    with torch.no_grad():
        first, second = (loaded(**batch(loaded)).logits for _ in range(2))
    assert torch.equal(first, second)


def test_adapters_are_in_the_mode_of_their_layers() -> None:
    model = build(section(language=causal_lm(LLAMA)))
    set_trainable(model, {"language": TrainLora(mode="lora", lr=1e-2, rank=4, dropout=0.5)})
    model.train()
    dropouts = [module for module in model.language.modules() if isinstance(module, nn.Dropout) and module.p == 0.5]
    assert [module.training for module in dropouts] == [True] * 14
