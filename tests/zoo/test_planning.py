"""The plan counts what `build` builds, without a value in memory, a weight read or a connection; or it says every reason."""

import json
import resource
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import GPT2, LLAMA, causal_lm, section
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vlmzoo
from vlmzoo.config import load_recipe
from vlmzoo.planning import Plan
from vlmzoo.training.trainable import set_trainable
from vlmzoo_registry import AssemblyError, Catalogue, PluginError
from vlmzoo_toy.language import ToyLanguage

SHUFFLE = {"name": "connectors/pixel-shuffle", "factor": 2}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MODELS: dict[str, dict[str, Any]] = {
    "unified": section(),
    "cross_attention": section("cross_attention"),
    "chain": section(connector=[SHUFFLE, {"name": "connectors/mlp", "depth": 3}]),
    "resampler": section(connector=[{"name": "connectors/resampler", "queries": 3, "depth": 1}]),
    "class token": section(vision={"name": "toy/vision", "class_token": True, "prefix": "keep", "layers": [-1, -2]}),
    "vocabulary that is full": section(language=causal_lm({**LLAMA, "vocab_size": 259})),
    "vocabulary with room": section(language=causal_lm({**LLAMA, "vocab_size": 320, "tie_word_embeddings": True})),
    "gpt2": section("cross_attention", language=causal_lm({**GPT2, "vocab_size": 259})),
    "bfloat16": section(language=causal_lm(LLAMA, dtype="bfloat16")),
    "clip": section(vision={"name": "transformers/vision", "config": CLIP, "layers": [-2]}),
    "timm": section(vision={"name": "timm/encoder", "config": {"architecture": "test_vit"}}),
}


def staged(model: dict[str, Any], *trains: str | dict[str, Any]) -> dict[str, Any]:
    """A recipe of one stage that trains these parts in full, or of several that train as they say."""
    if not trains or isinstance(trains[0], str):
        return {"model": model, "stages": [staged_one("s", {part: {} for part in trains})]}
    return {"model": model, "stages": [staged_one(f"s{number}", train) for number, train in enumerate(trains)]}


def staged_one(name: str, train: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "objective": "caption",
        "data": [{"name": "captions", "path": "none.jsonl", "images": "none"}],
        "train": {part: {"lr": 1.0, **settings} for part, settings in train.items()},
        "batch_size": 1,
        "steps": 1,
    }


# ---- what it says is what comes out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_counts_are_those_of_the_built_model(name: str) -> None:
    plan = vlmzoo.plan(staged(MODELS[name], "vision", "connector", "language"))
    model = vlmzoo.build(MODELS[name])
    assert plan.notes == ()
    for part in plan.parts:
        parameters = dict(model.parts[part.part].named_parameters())
        trained = {
            key: p for key, p in parameters.items() if part.part != "vision" or key not in model.vision.unused_parameters
        }
        assert part.parameters == sum(p.numel() for p in parameters.values()), part.part
        assert part.weight_bytes == sum(p.nbytes for p in parameters.values())
        (row,) = [row for row in plan.stages[0].parts if row.part == part.part]
        assert (row.trains, row.trained) == ("full", sum(p.numel() for p in trained.values()))
        # A gradient and two moments in float32, or a gradient in bf16 and two moments and a master in float32.
        assert row.training_bytes == sum(p.numel() * (12 if p.dtype == torch.float32 else 14) for p in trained.values())
    assert plan.image_tokens == model.image_shape.count
    assert plan.text_slots == model.processor.image_token.slots
    assert str(model.image_shape) in " ".join(plan.steps)
    assert plan.architecture == MODELS[name]["architecture"]


def test_only_what_a_stage_names_trains() -> None:
    plan = vlmzoo.plan(staged(MODELS["unified"], "connector"))
    (stage,) = plan.stages
    assert {row.part: row.trained > 0 for row in stage.parts} == {"vision": False, "connector": True, "language": False}
    assert [(row.trains, row.training_bytes) for row in stage.parts if not row.trained] == [("frozen", 0), ("frozen", 0)]
    assert stage.name == "s"
    assert vlmzoo.plan(MODELS["unified"]).stages == ()


LORA, LAST = {"mode": "lora", "rank": 4}, {"mode": "last", "layers": 1}


@pytest.mark.parametrize("name", ["unified", "gpt2", "bfloat16", "clip", "timm"])
def test_every_mode_is_counted_as_training_counts_it(name: str) -> None:
    """Stage after stage: adapters come, stay, and are merged."""
    stages: list[dict[str, Any]] = [
        {"connector": {}, "language": LORA},
        {"vision": LAST, "language": LORA},
        {"vision": {"mode": "norms"}, "language": LAST},
        {"vision": {"mode": "bias"}, "language": {}},
        {"vision": LORA, "connector": LORA},
    ]
    recipe = staged(MODELS[name], *stages)
    plan = vlmzoo.plan(recipe)
    assert [stage.name for stage in plan.stages] == ["s0", "s1", "s2", "s3", "s4"]
    model = vlmzoo.build(MODELS[name])
    for stage, settings in zip(plan.stages, load_recipe(recipe).stages, strict=True):
        for row, state in zip(stage.parts, set_trainable(model, {str(k): v for k, v in settings.train.items()}), strict=True):
            found = list(state.trained.values())
            assert (row.part, row.trains, row.trained) == (state.name, state.how, sum(p.numel() for p in found)), stage.name
            assert row.training_bytes == sum(p.numel() * (12 if p.dtype == torch.float32 else 14) for p in found)
    assert [part.parameters for part in plan.parts] == [part.parameters for part in vlmzoo.plan(MODELS[name]).parts]


def test_a_stage_that_cannot_train_is_refused_by_the_plan() -> None:
    recipe = staged(MODELS["unified"], {"language": LORA}, {"language": {**LORA, "rank": 8}, "vision": {**LAST, "layers": 7}})
    with pytest.raises(AssemblyError) as refused:
        vlmzoo.plan(recipe)
    assert str(refused.value) == (
        "stage `s1` (`stages.1`) cannot train what it names\n  - `train.language`: the part has adapters from an earlier "
        "stage, of rank 4, alpha 8, dropout 0 on 8 layers, and this one asks for rank 8, alpha 16, dropout 0 on 8 layers: give "
        "the same settings, and it goes on with them (any other mode merges them)\n  - `train.vision`: `layers` (=7) must be "
        "at most the number of blocks that the part uses (=2)"
    )


def test_the_steps_of_an_image() -> None:
    cross = {"name": "connectors/cross-attention", "layers": [1, 3], "heads": 2, "place": "after"}
    language = {"name": "toy/language", "depth": 4}
    plan = vlmzoo.plan(section("cross_attention", connector=[SHUFFLE, cross], language=language))
    assert plan.steps == (
        "image 32x32",
        "toy/vision: 16 tokens of width 24 (grid 4x4, prefix 0)",
        "connectors/pixel-shuffle: 4 tokens of width 96 (grid 2x2, prefix 0)",
        "connectors/cross-attention: 2 blocks, after decoder layers 1, 3",
    )
    assert (plan.image_tokens, plan.text_slots, plan.blocks) == (4, 1, (1, 3))
    assert (
        json.loads(json.dumps(plan.to_dict()))["parts"][1]["component"]
        == "connectors/pixel-shuffle + connectors/cross-attention"
    )


# ---- nothing is allocated, read or asked for -------------------------------------------------------------------------------


class _Watch(TorchDispatchMode):
    """The largest tensor with values that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self.largest = max(self.largest, leaf.nbytes)
        return out


@pytest.mark.parametrize("name", MODELS)
def test_no_tensor_has_values(name: str) -> None:
    with _Watch() as watch:
        vlmzoo.plan(MODELS[name])
    assert watch.largest <= 4096  # positions of a rotary table, a mask of a few tokens: never a weight
    with _Watch() as watch:
        vlmzoo.build(MODELS[name])
    assert watch.largest > 4096  # the watch sees a build


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as `save_pretrained` leaves them, but without the weights; the tokenizer only in one."""
    from transformers import AutoConfig

    from vlmzoo_registry.byte_tokenizer import byte_tokenizer

    root = tmp_path_factory.mktemp("pretrained")
    for name in ("language", "bare"):
        AutoConfig.for_model(**{**LLAMA, "vocab_size": 259}).save_pretrained(root / name)
    byte_tokenizer().save_pretrained(root / "language")
    AutoConfig.for_model(**CLIP).save_pretrained(root / "vision")
    return root


class Asked(BaseException):
    """Somebody asked for a connection; no `Exception`, which would be caught and tried again for minutes."""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt at a connection, or at a name; and the hub is not told to stay offline."""
    attempts: list[Any] = []

    def refuse(*args: Any, **_: Any) -> Any:
        attempts.append(args)
        raise Asked

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return attempts


def test_pretrained_parts_are_planned_from_their_configuration(pretrained: Path, no_network: list[Any]) -> None:
    colours = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    vision = {"name": "transformers/vision", "model": str(pretrained / "vision"), "layers": [-2], **colours}
    language = {"name": "transformers/causal-lm", "model": str(pretrained / "language")}
    plan = vlmzoo.plan(section(vision=vision, language=language))
    same = vlmzoo.plan(
        section(vision={**vision, "config": CLIP, "model": None}, language=causal_lm({**LLAMA, "vocab_size": 259}))
    )
    assert plan == same
    assert no_network == []
    # There are no weights that could have been read; whoever wants them is told.
    said = refusal(section(vision=vision, language=language), vlmzoo.build)
    assert said.count("no file named model.safetensors") == 2
    assert said.splitlines()[2].startswith("  - `language` (transformers/causal-lm): Error no file named model.safetensors")


def test_a_tokenizer_that_is_not_here_is_noted(pretrained: Path, no_network: list[Any]) -> None:
    plan = vlmzoo.plan(section(language={"name": "transformers/causal-lm", "model": str(pretrained / "bare")}))
    (note,) = plan.notes
    assert note.startswith("the tokenizer cannot be read on this machine (")
    assert note.endswith("not counted, and whether it has what the template writes is not known")
    full = vlmzoo.plan(section(language=causal_lm({**LLAMA, "vocab_size": 259})))
    assert language_of(full).parameters - language_of(plan).parameters == 2 * 32  # a row of the embedding and one of the head
    assert no_network == []


def test_the_hub_is_not_asked_for_what_the_cache_lacks(
    pretrained: Path, tmp_path: Path, no_network: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration was downloaded once, the tokenizer never: a build would fetch it, a plan does without."""
    repository = tmp_path / "models--somebody--half"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("1" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("1" * 40)).symlink_to(pretrained / "bare")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = section(language={"name": "transformers/causal-lm", "model": "somebody/half"})
    assert len(vlmzoo.plan(config).notes) == 1
    assert no_network == []
    with pytest.raises(Asked):
        vlmzoo.build(config)


def language_of(plan: Plan) -> Any:
    return next(part for part in plan.parts if part.part == "language")


def test_ids_that_are_not_on_this_machine_are_refused_without_asking(no_network: list[Any]) -> None:
    message = refusal(
        section(
            vision={"name": "transformers/vision", "model": "nobody/no-vision"},
            language={"name": "transformers/causal-lm", "model": "nobody/no-language"},
        )
    )
    first, vision, language = message.splitlines()
    assert first == "the parts do not fit together"
    for line, part, name, model in (
        (vision, "vision", "transformers/vision", "nobody/no-vision"),
        (language, "language", "transformers/causal-lm", "nobody/no-language"),
    ):
        assert line.startswith(
            f"  - `{part}` ({name}): `model` (='{model}'): no transformers config was found on this machine. Give a folder "
            "that holds `config.json`, download the model first, or write the architecture under `config:`. ("
        )
    assert no_network == []


BIG = """
import json, sys
import vlmzoo
from pathlib import Path
from vlmzoo.training.memory import peak_memory  # not `ru_maxrss`, which begins with that of the worker that forked this
plan = vlmzoo.plan(json.loads(Path(sys.argv[1]).read_text()))
print(json.dumps([peak_memory(), plan.to_dict()]))
"""


@pytest.mark.slow
def test_seventy_billion_parameters_are_planned_in_little_memory(tmp_path: Path) -> None:
    llama = {
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }
    cross = [{"name": "connectors/cross-attention", "every": 5, "heads": 64, "head_width": 128}]
    (tmp_path / "model.json").write_text(
        json.dumps(section("cross_attention", connector=cross, language=causal_lm(llama, dtype="bfloat16")))
    )
    done = subprocess.run(
        [sys.executable, "-c", BIG, str(tmp_path / "model.json")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
    )
    peak, plan = json.loads(done.stdout)
    (language,) = [part for part in plan["parts"] if part["part"] == "language"]
    # 70.55 billion, the number of parameters of Llama 3.1 70B, worked out by hand from its configuration.
    layer = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    assert language["parameters"] == 80 * layer + 2 * 128256 * 8192 + 8192 == 70_553_706_496
    assert language["weight_bytes"] == 2 * 70_553_706_496
    assert peak < 4 * 2**30


# ---- every reason at once --------------------------------------------------------------------------------------------------


def refusal(config: dict[str, Any], action: Callable[..., Any] = vlmzoo.plan) -> str:
    with pytest.raises(AssemblyError) as refused:
        action(config)
    assert refused.value.exit_code == 2
    return str(refused.value)


CROSS = {"name": "connectors/cross-attention", "heads": 2, "head_width": 8}
NONSENSE = causal_lm({"model_type": "lama"})
REFUSALS: list[tuple[dict[str, Any], list[str]]] = [
    (
        section(connector=[{**CROSS, "every": 1}]),
        [
            "`connector.0` (connectors/cross-attention) builds blocks in the decoder: use `architecture: cross_attention`, or "
            "another connector"
        ],
    ),
    (
        section("cross_attention", connector=[{**CROSS, "every": 1}, {"name": "connectors/mlp"}]),
        [
            "`connector.0` (connectors/cross-attention) builds blocks in the decoder, so it must be the last of the chain (is "
            "0 of 0-1)",
            "`architecture: cross_attention` needs a connector with the capability `layers` at the end of the chain, for "
            "example `connectors/cross-attention`; `connector.1` (connectors/mlp) makes tokens for the text",
        ],
    ),
    (
        section(connector=[{**SHUFFLE, "factor": 3}, {"name": "connectors/mlp"}], language=NONSENSE),
        [
            "`language` (transformers/causal-lm): `config` is not an architecture of transformers: ",
            "`connector.0` (connectors/pixel-shuffle): `factor` (=3) must divide both sides of the grid (4x4)",
        ],
    ),
    (
        section("cross_attention", connector=[{**SHUFFLE, "factor": 3}, {"name": "connectors/mlp"}], language=NONSENSE),
        [
            "`language` (transformers/causal-lm): `config` is not an architecture of transformers: ",
            "`connector.0` (connectors/pixel-shuffle): `factor` (=3) must divide both sides of the grid (4x4)",
        ],
    ),
    (
        section(vision={"name": "transformers/vision", "config": {"model_type": "clipp"}}, language=NONSENSE),
        [
            "`vision` (transformers/vision): `config` is not an architecture of transformers: ",
            "`language` (transformers/causal-lm): `config` is not an architecture of transformers: ",
        ],
    ),
    (
        section("cross_attention", connector=[{**CROSS, "layers": [1, 2, 7]}]),
        [
            "`connector.0` (connectors/cross-attention): `layers` names [2, 7], and the decoder has 2 layers: the last is 1",
        ],
    ),
    (
        section(connector=[SHUFFLE]),
        [
            "`connector.0` (connectors/pixel-shuffle): it puts out width 96 where 32 is needed: let "
            "`connectors/linear` or `connectors/mlp` follow it"
        ],
    ),
]


@pytest.mark.parametrize(("config", "expected"), REFUSALS)
def test_every_reason_is_said_at_once(config: dict[str, Any], expected: list[str]) -> None:
    first, *reasons = refusal(config).splitlines()
    assert first == "the parts do not fit together"
    assert len(reasons) == len(expected), reasons
    for reason, text in zip(reasons, expected, strict=True):
        assert reason.startswith(f"  - {text}")
        assert reason == f"  - {text}" or text.endswith(": ")
    assert refusal(config, vlmzoo.build) == refusal(config)  # building refuses for the same reasons


def test_faulty_connectors_of_a_plugin(tmp_path: Path) -> None:
    """One ignores the width it was asked for; the other breaks while it is made, and the fault is not said to be ours."""
    plugin = tmp_path / "stubborn.py"
    plugin.write_text(
        "from vlmzoo_registry import ComponentSpec, PerToken, hookimpl\n"
        "from torch import nn\n"
        "from dataclasses import replace\n"
        "def wire(config, context):\n"
        "    return PerToken(nn.Linear(context.input.width, 7), replace(context, output_width=7))\n"
        "def broken(config, context):\n"
        "    return {}['nothing']\n"
        "@hookimpl\n"
        "def vlmzoo_components():\n"
        "    return [ComponentSpec(kind='connector', name=name, factory=f'stubborn:{name}', summary='A wire', license='MIT')\n"
        "            for name in ('wire', 'broken')]\n"
    )
    catalogue = Catalogue.discover(extra=[plugin])
    message = refusal(section(connector=[{"name": "stubborn/wire"}]), lambda config: vlmzoo.plan(config, catalogue=catalogue))
    assert message == (
        "the parts do not fit together\n  - `connector.0` (stubborn/wire) gives tokens of width 7, but those of `language` "
        "(toy/language) have 32: end the chain with a connector that projects, for example `connectors/linear` or "
        "`connectors/mlp`"
    )
    with pytest.raises(PluginError) as broken:
        vlmzoo.plan(section(connector=[{"name": "stubborn/broken"}]), catalogue=catalogue)
    said = str(broken.value)
    assert said.startswith("`connector.0`: connector `stubborn/broken` (stubborn.py ")
    assert said.endswith(f") could not be made: KeyError: 'nothing' ({plugin}:7)")


def test_no_draw_is_taken_from_the_random_state() -> None:
    before = torch.get_rng_state()
    vlmzoo.plan(MODELS["clip"])
    assert torch.equal(torch.get_rng_state(), before)


def test_template_that_the_tokenizer_cannot_write_is_refused():
    config = {**section(), "template": "chatml_direct"}
    with pytest.raises(AssemblyError, match="template `chatml_direct` cannot be used with this tokenizer"):
        vlmzoo.plan(config)
    assert (
        vlmzoo.plan({**config, "language": {"name": "toy/language", "control_tokens": ["<|im_start|>", "<|im_end|>"]}}).notes
        == ()
    )


def test_a_tokenizer_that_says_nothing_of_why_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(config: Any) -> Any:
        raise OSError

    monkeypatch.setattr(ToyLanguage, "tokenizer", property(nothing))
    (note,) = vlmzoo.plan(section()).notes
    assert note.startswith("the tokenizer cannot be read on this machine (OSError): rows that its image token adds")


def test_a_refusal_does_not_silence_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a part warned of before another one refused."""
    width = ToyLanguage.width.fget

    def warned(language: Any) -> int:
        warnings.warn("the part is old", DeprecationWarning, stacklevel=1)
        return width(language)

    monkeypatch.setattr(ToyLanguage, "width", property(warned))
    with pytest.warns(DeprecationWarning, match="the part is old"), pytest.raises(AssemblyError, match="it puts out width 24"):
        vlmzoo.plan(section(connector=[{"name": "connectors/identity"}]))
