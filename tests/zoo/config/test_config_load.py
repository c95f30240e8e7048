"""Recipes and models: what a good one becomes, and, word for word, what is said about a bad one."""

# ruff: noqa: E501 (messages stand whole, as they are read)

import subprocess
import sys
from pathlib import Path

import pytest
from config_parts import RECIPE, EncoderOptions, FilesOptions, LanguageOptions, MlpOptions, catalogue

from vlmzoo.config import (
    Choice,
    ModelConfig,
    Recipe,
    StageConfig,
    TrainBias,
    TrainFull,
    TrainLast,
    TrainLora,
    TrainNorms,
    load_model,
    load_recipe,
)
from vlmzoo_registry import ConfigError, NoOptions, PluginError

MODEL = {"architecture": "unified", "vision": "encoder", "connector": "test/mlp", "template": "plain"} | {
    "language": {"name": "decoder", "model": "some/model"}
}


def recipe(tmp_path: Path, old: str = "", new: str = "", *more: tuple[str, str], overrides=(), load=load_recipe):
    """The recipe of the tests with some of its text replaced."""
    text = RECIPE
    for before, after in ((old, new), *more):
        assert before in text
        text = text.replace(before, after, 1) if before else text
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load(path, overrides, catalogue())


def refusal(tmp_path: Path, *changes, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        recipe(tmp_path, *changes, **options)
    return [reason.removeprefix(f"{tmp_path}/") for reason in caught.value.reasons]


def test_a_recipe_becomes_parts_with_their_options(tmp_path):
    loaded = recipe(tmp_path)
    model, (stage,) = loaded.model, loaded.stages
    assert (loaded.seed, model.architecture) == (7, "unified")
    assert model.vision.component.full_name == "test/encoder"
    assert model.vision.config == EncoderOptions(layers=(-2,))
    assert [choice.config for choice in model.connector] == [MlpOptions(depth=2, norm_epsilon=1e-6)]
    assert model.language.config == LanguageOptions(config={"model_type": "llama", "hidden_size": 32})
    assert model.template.config == NoOptions()
    assert (stage.name, stage.objective.component.full_name) == ("align", "test/caption")
    assert stage.data[0].config == FilesOptions(path=tmp_path / "rows.jsonl", images=tmp_path / "images")
    assert stage.train == {
        "connector": TrainFull(lr=1e-3),
        "language": TrainFull(lr=2e-5, weight_decay=0.1, warmup=0.1),
    }
    assert (stage.batch_size, stage.micro_batch, stage.steps, stage.epochs) == (8, 4, 100, None)
    assert (stage.warmup, stage.schedule, stage.clip, stage.precision, stage.log_every) == (0.03, "cosine", 1.0, "float32", 5)


def test_what_may_be_left_out_has_a_default(tmp_path):
    lines = ["micro_batch: 4", "warmup: 0.03", "schedule: cosine", "clip: 1.0", "precision: float32", "log_every: 5"]
    loaded = recipe(tmp_path, "seed: 7", "", *((f"    {line}\n", "") for line in lines))
    stage = loaded.stages[0]
    assert (loaded.seed, stage.micro_batch, stage.warmup, stage.schedule) == (0, 8, 0.03, "cosine")
    assert (stage.clip, stage.precision, stage.log_every) == (1.0, "float32", 10)
    assert stage.train["connector"] == TrainFull(mode="full", lr=1e-3, weight_decay=0.0, warmup=None)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("mode: last, layers: 2", TrainLast(mode="last", lr=1e-3, layers=2)),
        ("mode: lora, rank: 4", TrainLora(mode="lora", lr=1e-3, rank=4, alpha=8.0, dropout=0.0, targets=None)),
        (
            "mode: lora, rank: 4, alpha: 4, targets: [q, v]",
            TrainLora(mode="lora", lr=1e-3, rank=4, alpha=4.0, targets=("q", "v")),
        ),
        ("mode: norms", TrainNorms(mode="norms", lr=1e-3)),
        ("mode: bias", TrainBias(mode="bias", lr=1e-3)),
    ],
)
def test_every_mode_is_read_and_written(tmp_path, written, expected):
    loaded = recipe(tmp_path, "lr: 1e-3}", f"lr: 1e-3, {written}}}")
    assert loaded.stages[0].train["connector"] == expected
    assert load_recipe(loaded.dump(), catalogue=catalogue()) == loaded


@pytest.mark.parametrize("connector", ["test/mlp", "[test/mlp]", "{name: test/mlp}", "[{name: test/mlp}]"])
def test_short_forms_say_the_same(tmp_path, connector):
    long = recipe(tmp_path, "      depth: 2\n      norm_epsilon: 1e-6\n", "")
    short = recipe(
        tmp_path,
        "  connector:\n    - name: test/mlp\n      depth: 2\n      norm_epsilon: 1e-6\n",
        f"  connector: {connector}\n",
        ("vision: {name: test/encoder, layers", "vision: [{name: encoder, layers"),
        ("prefix: drop}", "prefix: drop}]"),
        ("template: plain", "template: {name: test/plain}"),
    )
    assert short == long


def test_a_dump_loads_back_equal(tmp_path):
    loaded = recipe(tmp_path)
    assert load_recipe(loaded.dump(), catalogue=catalogue()) == loaded
    assert load_model(loaded.model.dump(), catalogue=catalogue()) == loaded.model
    assert loaded.dump()["model"]["connector"] == [
        {"name": "test/mlp", "depth": 2, "hidden_width": None, "norm_epsilon": 1e-6, "activation": "gelu"}
    ]


def test_an_infinite_number_in_an_open_configuration_survives(tmp_path):
    loaded = recipe(tmp_path, "hidden_size: 32", "time_step_limit: [0.0, .inf]")
    assert loaded.model.language.config.config["time_step_limit"] == [0.0, float("inf")]
    assert load_recipe(loaded.dump(), catalogue=catalogue()) == loaded


def test_a_model_is_taken_from_a_recipe_or_stands_alone(tmp_path):
    whole = recipe(tmp_path)
    assert recipe(tmp_path, load=load_model) == whole.model
    alone = load_model(MODEL, ["connector.depth=3"], catalogue())
    assert alone.connector[0].config == MlpOptions(depth=3)
    assert load_model({"model": MODEL}, ["model.connector.depth=3"], catalogue()) == alone
    # The stages are somebody else's business, but not the keys beside them.
    assert recipe(tmp_path, "steps: 100", "stps: 100", load=load_model) == whole.model
    assert refusal(tmp_path, "seed: 7", "sed: 7", load=load_model) == [
        "recipe.yaml:26:1: sed: unknown key; did you mean `seed`? (a recipe knows: about, model, stages, seed)"
    ]
    assert refusal(tmp_path, "model:", "modle:", load=load_model) == [
        "recipe.yaml:1:1: modle: unknown key; did you mean `model`? (a recipe knows: about, model, stages, seed)"
    ]
    with pytest.raises(ConfigError) as caught:
        load_model({"stages": []}, catalogue=catalogue())
    assert str(caught.value) == "the config cannot be used\n  - model: is missing: The parts, and how they meet"


def test_paths_start_from_the_folder_they_are_written_in(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/of/somebody")
    change = ("path: rows.jsonl", "path: /data/rows.jsonl, more: [a.json, ~/b.json], label: here.txt")
    files = recipe(tmp_path, *change).stages[0].data[0].config
    assert files.path == Path("/data/rows.jsonl")
    assert files.images == tmp_path / "images"
    assert files.more == (tmp_path / "a.json", Path("/home/of/somebody/b.json"))
    assert files.label == "here.txt"  # a text that is declared as a text stays as written

    monkeypatch.chdir(tmp_path.parent)
    files = recipe(tmp_path, overrides=["stages.data.path=other.jsonl"]).stages[0].data[0].config
    assert (files.path, files.images) == (tmp_path.parent / "other.jsonl", tmp_path / "images")
    written = recipe(tmp_path).dump() | {"seed": 1}
    written["stages"][0]["data"][0]["path"] = "third.jsonl"
    assert load_recipe(written, catalogue=catalogue()).stages[0].data[0].config.path == tmp_path.parent / "third.jsonl"


def test_everything_that_is_wrong_is_said_at_once_in_the_order_of_the_file(tmp_path):
    with pytest.raises(ConfigError) as caught:
        recipe(
            tmp_path,
            "final_norm: false",
            "final_norm: no",
            ("name: test/mlp", "name: test/mpl"),
            ("objective: caption", "objektive: caption"),
            ("{name: files, path: rows.jsonl", "{name: files"),
            ("lr: 1e-3", "lr: -1e-3"),
            ("batch_size: 8", "batchsize: 8"),
            ("steps: 100", "steps: 1e2"),
            ("clip: 1.0", "epochs: 2"),
        )
    path = tmp_path / "recipe.yaml"
    known = "name, objective, data, on_bad_row, max_bad_rows, max_length, too_long, template, train, batch_size, micro_batch, batching, workers, steps, epochs, warmup, schedule, loss_weights, label_smoothing, z_loss, clip, precision, cache_features, log_every, save_every, save_minutes"
    reasons = list(caught.value.reasons)
    # The words about an unknown component are the catalogue's, and tested there; the place is ours.
    assert reasons.pop(1).startswith(
        f"{path}:5:13: model.connector.0.name: no connector is named `test/mpl`; did you mean `test/m"
    )
    assert reasons == [
        f"{path}:3:58: model.vision.final_norm: must be `true` or `false` (is the text `no`); write `false`",
        f"{path}:12:5: stages.0.objektive: unknown key; did you mean `objective`? (a stage knows: {known})",
        f"{path}:14:9: stages.0.data.0.path: is missing: The rows, as JSON lines",
        f"{path}:16:23: stages.0.train.connector.lr: must be greater than 0 (is -0.001)",
        f"{path}:18:5: stages.0.batchsize: unknown key; did you mean `batch_size`? (a stage knows: {known})",
        f"{path}:20:12: stages.0.steps: must be a whole number (is 100.0); write `100`",
        f"{path}:23:13: stages.0.epochs: stands beside `steps` (=100.0): give one of them, not both",
    ]
    assert caught.value.message == f"{path} cannot be used, for 8 reasons"
    assert str(caught.value).splitlines()[1] == f"  - {reasons[0]}"


def test_a_component_that_is_not_found_has_its_place_and_the_nearest_name(tmp_path):
    for name, words in (
        ("mlp", "connector `mlp` is provided by 2 plugins: write `other/mlp` or `test/mlp`"),
        ("test/encoder", "no connector is named `test/encoder`"),
        ("test/shufle", "no connector is named `test/shufle`; did you mean `test/shuffle`?"),
    ):
        (reason,) = refusal(tmp_path, "name: test/mlp", f"name: {name}")
        assert reason.startswith(f"recipe.yaml:5:13: model.connector.0.name: {words}")
        assert "vlmzoo list --kind connector" in reason or name == "mlp"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("      depth: 2", "      dept: 2", ["recipe.yaml:6:7: model.connector.0.dept: unknown key; did you mean `depth`? "
         "(test/mlp knows: depth, hidden_width, norm_epsilon, activation)"]),
        ("template: plain", "template: {name: plain, style: x}", ["recipe.yaml:9:27: model.template.style: unknown key "
         "(test/plain has no options)"]),
        ("prefix: drop", "patches: {sise: 2}", ["recipe.yaml:3:75: model.vision.patches.sise: unknown key; did you mean `size`? "
         "(`patches` knows: size, overlap)"]),
        ("  architecture: unified\n", "", ["recipe.yaml:1:1: model.architecture: is missing: How image and text meet: `unified` "
         "places image tokens in the text, `cross_attention` adds layers to the decoder that attend to them, `hybrid` places "
         "those of the whole image in the text and attends to those of its tiles. Where a chain for `cross_attention` ends without a connector that builds such layers (capability `layers`), `connectors/cross-attention` with "
         "its defaults is added to it"]),
        ("unified", "blended", ["recipe.yaml:2:17: model.architecture: must be one of `unified`, `cross_attention`, `hybrid` (is "
         "`blended`)"]),
        ("unified", "unifed", ["recipe.yaml:2:17: model.architecture: must be one of `unified`, `cross_attention`, `hybrid` (is "
         "`unifed`); did you mean `unified`?"]),
        ("depth: 2", "depth: '2'", ["recipe.yaml:6:14: model.connector.0.depth: must be a whole number (is the text `2`)"]),
        ("depth: 2", "depth: true", ["recipe.yaml:6:14: model.connector.0.depth: must be a whole number (is `true`)"]),
        ("depth: 2", "depth:", ["recipe.yaml:6:13: model.connector.0.depth: must be a whole number (is empty)"]),
        ("depth: 2", "depth: 0", ["recipe.yaml:6:14: model.connector.0.depth: must be at least 1 (is 0)"]),
        ("1e-6", ".inf", ["recipe.yaml:7:21: model.connector.0.norm_epsilon: must be a finite number (is inf)"]),
        ("[-2]", "-2", ["recipe.yaml:3:40: model.vision.layers: must be a list (is -2)"]),
        ("[-2]", "[]", ["recipe.yaml:3:40: model.vision.layers: must be a list of at least 1 (is an empty list)"]),
        ("[-2]", "[-2, x]", ["recipe.yaml:3:45: model.vision.layers.1: must be a whole number (is the text `x`)"]),
        ("{model_type: llama, hidden_size: 32}", "[llama]", ["recipe.yaml:8:42: model.language.config: must be a mapping "
         "(is a list of 1)"]),
        ("{name: test/decoder, ", "{name: test/decoder, model: 1.10, ", ["recipe.yaml:8:41: model.language.model: must be a text "
         "(is 1.1); put it in quotes to make it a text"]),
        ("{name: test/decoder, ", "{name: test/decoder, model: x, ", ["recipe.yaml:8:13: model.language: give either `model` or "
         "`config`"]),
        ("{name: test/decoder, ", "{", ["recipe.yaml:8:3: model.language.name: is missing: the name of a component (`vlmzoo list "
         "--kind language_model`)"]),
        ("{name: test/decoder, ", "{nam: test/decoder, ", ["recipe.yaml:8:14: model.language.nam: unknown key; did you mean "
         "`name`?"]),
        ("{name: test/decoder, ", "{name: 3, ", ["recipe.yaml:8:20: model.language.name: must be the name of a component, a text "
         "(is 3)"]),
        ("template: plain", "template: 3", ["recipe.yaml:9:13: model.template: must be a component: its name, or a mapping with "
         "`name` (is 3)"]),
        ("template: plain", "template: [plain]", ["recipe.yaml:9:13: model.template: must be a component: its name, or a mapping "
         "with `name` (is a list of 1)"]),
        ("{name: test/encoder, layers: [-2], final_norm: false, prefix: drop}", "[encoder, {name: encodr}]",
         ["recipe.yaml:3:28: model.vision.1.name: no vision_encoder is named `encodr`; did you mean `encoder`? "
         "(`vlmzoo list --kind vision_encoder` shows all 1)"]),
        ("{name: test/encoder, layers: [-2], final_norm: false, prefix: drop}", "[]",
         ["recipe.yaml:3:11: model.vision: names no vision encoder: name one or more"]),
        ("  template: plain\n", "  template: plain\n  connectors: []\n", ["recipe.yaml:10:3: model.connectors: unknown key; did "
         "you mean `connector`? (a model knows: architecture, vision, merge, connector, language, layout, template)"]),
        ("lr: 1e-3", "lr: 1e-3x", ["recipe.yaml:16:23: stages.0.train.connector.lr: must be a number (is the text `1e-3x`)"]),
        ("lr: 1e-3", "mode: full", ["recipe.yaml:16:7: stages.0.train.connector.lr: is missing: The highest learning rate, for "
         "example `1.0e-3`"]),
        ("lr: 1e-3", "lr: 1e-3, mode: lora", ["recipe.yaml:16:7: stages.0.train.connector.rank: is missing: The rank of every "
         "adapter, for example `16`"]),
        ("lr: 1e-3", "lr: 1e-3, mode: ful", ["recipe.yaml:16:35: stages.0.train.connector.mode: must be one of `full`, `last`, "
         "`lora`, `norms`, `bias` (is `ful`); did you mean `full`?"]),
        ("lr: 1e-3", "lr: 1e-3, mode: 3", ["recipe.yaml:16:35: stages.0.train.connector.mode: must be one of `full`, `last`, "
         "`lora`, `norms`, `bias` (is 3)"]),
        ("lr: 1e-3", "lr: 1e-3, mode: [last]", ["recipe.yaml:16:35: stages.0.train.connector.mode: must be one of `full`, "
         "`last`, `lora`, `norms`, `bias` (is a list of 1)"]),
        ("lr: 1e-3", "lr: 1e-3, layers: 2", ["recipe.yaml:16:37: stages.0.train.connector.layers: belongs to `mode: last`, and "
         "this part has `mode: full`: change the mode, or leave it out"]),
        ("lr: 1e-3", "lr: 1e-3, mode: last, layers: 2, rank: x", ["recipe.yaml:16:58: stages.0.train.connector.rank: belongs to "
         "`mode: lora`, and this part has `mode: last`: change the mode, or leave it out"]),
        ("lr: 1e-3", "lr: 1e-3, mode: last, layer: 2", ["recipe.yaml:16:41: stages.0.train.connector.layer: unknown key; did you "
         "mean `layers`? (a part that trains knows: mode, lr, weight_decay, warmup, layers)"]),
        ("lr: 1e-3", "lr: 1e-3, mode: last, layers: 0", ["recipe.yaml:16:49: stages.0.train.connector.layers: must be at least 1 "
         "(is 0)"]),
        ("lr: 1e-3", "lr: 1e-3, mode: lora, rank: 8, targets: q", ["recipe.yaml:16:59: stages.0.train.connector.targets: must be "
         "a list (is the text `q`)"]),
        ("{lr: 1e-3}", "3", ["recipe.yaml:16:18: stages.0.train.connector: must be a mapping (is 3)"]),
        ("lr: 1e-3", "lr: 1e-3, wd: 0", ["recipe.yaml:16:29: stages.0.train.connector.wd: unknown key (a part that trains knows: "
         "mode, lr, weight_decay, warmup)"]),
        ("      language: {lr", "      languages: {lr", ["recipe.yaml:17:7: stages.0.train.languages: unknown key; did you mean "
         "`language`? (`train` knows: vision, connector, language)"]),
        ("warmup: 0.1}", "warmup: 1}", ["recipe.yaml:17:57: stages.0.train.language.warmup: must be less than 1 (is 1)"]),
        ("micro_batch: 4", "micro_batch: 3", ["recipe.yaml:19:18: stages.0.micro_batch: must divide `batch_size` (=8) without "
         "remainder (is 3)"]),
        ("    steps: 100\n", "", ["recipe.yaml:11:5: stages.0.steps: is missing: give `steps` or `epochs`"]),
        ("steps: 100", "epoch: 1", None),
        ("steps: 100", "steps: 100\n    epochs: 1", ["recipe.yaml:21:13: stages.0.epochs: stands beside `steps` (=100): give one "
         "of them, not both"]),
        ("name: align", "name: ../x", ["recipe.yaml:11:11: stages.0.name: must be a text of the form "
         "`^[A-Za-z0-9][A-Za-z0-9_.-]*$` (is the text `../x`)"]),
        ("schedule: cosine", "schedule: cosin", ["recipe.yaml:22:15: stages.0.schedule: must be one of `cosine`, `constant` (is "
         "`cosin`); did you mean `cosine`?"]),
        ("precision: float32", "precision: fp16", ["recipe.yaml:24:16: stages.0.precision: must be one of `float32`, `bf16` (is "
         "`fp16`); did you mean `bf16`?"]),
        ("seed: 7", "seed: -7", ["recipe.yaml:26:7: seed: must be at least 0 (is -7)"]),
        ("- {name: files, path: rows.jsonl, images: images/}", "{name: files, path: rows.jsonl}",
         ["recipe.yaml:14:7: stages.0.data: must be a list (is a mapping)"]),
    ],
)  # fmt: skip
def test_the_words_for_one_fault(tmp_path, old, new, expected):
    if expected is None:
        assert len(refusal(tmp_path, old, new)) == 2  # an unknown `epoch`, and neither `steps` nor `epochs`
    else:
        assert refusal(tmp_path, old, new) == expected


def test_a_union_is_explained_by_the_member_that_fits_best(tmp_path):
    change = ("name: test/mlp\n      depth: 2\n      norm_epsilon: 1e-6\n", "name: shuffle\n      factor: 2\n      sizes: ")
    line = "recipe.yaml:7:14: model.connector.0.sizes"
    assert refusal(tmp_path, change[0], change[1] + "x\n") == [f"{line}: must be a whole number or a list (is the text `x`)"]
    assert refusal(tmp_path, change[0], change[1] + "[1, x]\n") == [
        "recipe.yaml:7:18: model.connector.0.sizes.1: must be a whole number (is the text `x`)"
    ]


def test_nothing_trains_and_stages_that_share_a_name(tmp_path):
    train = RECIPE[RECIPE.index("    train:") : RECIPE.index("    batch_size")]
    assert refusal(tmp_path, train, "    train: {}\n") == [
        "recipe.yaml:15:12: stages.0.train: names no part, so nothing would train: name `vision`, `connector` or `language`"
    ]
    stage = RECIPE[RECIPE.index("  - name: align") : RECIPE.index("seed:")]
    assert refusal(tmp_path, stage, stage + stage.replace("lr: 1e-3", "rl: 1e-3")) == [
        "recipe.yaml:11:3: stages: has 2 stages called `align`: give each a name of its own",
        "recipe.yaml:31:19: stages.1.train.connector.rl: unknown key; did you mean `lr`? (a part that trains knows: mode, lr, "
        "weight_decay, warmup)",
    ]
    assert refusal(tmp_path, "stages:\n" + stage, "stages: []\n") == [
        "recipe.yaml:10:9: stages: is empty: give at least 1 stage"
    ]
    two = recipe(tmp_path, stage, stage + stage.replace("name: align", "name: instruct")).stages
    assert [one.name for one in two] == ["align", "instruct"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1", "recipe.yaml:1:1: (top level): must be a mapping (is a list of 1)"),
        ("just words", "recipe.yaml:1:1: (top level): must be a mapping (is the text `just words`)"),
        ("null", "recipe.yaml:1:1: (top level): must be a mapping (is empty)"),
    ],
)
def test_a_document_must_be_a_mapping(tmp_path, text, expected):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    for load in (load_recipe, load_model):
        with pytest.raises(ConfigError) as caught:
            load(path, catalogue=catalogue())
        assert caught.value.reasons == (expected.replace("recipe.yaml", str(path)),)


def test_sections_of_the_wrong_shape(tmp_path):
    for data, expected in (
        ({"model": 3, "stages": 3}, ["model: must be a mapping (is 3)", "stages: must be a list (is 3)"]),
        ({"model": {}, "stages": [3]}, None),
        ({}, ["model: is missing: The parts, and how they meet", "stages: is missing: The stages, one after the other"]),
    ):
        with pytest.raises(ConfigError) as caught:
            load_recipe(data, catalogue=catalogue())
        if expected is not None:
            assert list(caught.value.reasons) == expected
        else:
            assert "stages.0: must be a mapping (is 3)" in caught.value.reasons
            assert len(caught.value.reasons) == 6  # and the five keys of a model


def test_a_fault_of_a_plugin_is_the_plugins(tmp_path):
    heavy = ("name: test/mlp\n      depth: 2\n      norm_epsilon: 1e-6\n", "name: test/heavy\n")
    with pytest.raises(PluginError) as caught:
        recipe(tmp_path, *heavy)
    assert caught.value.exit_code == 4
    (reason,) = caught.value.reasons
    assert reason.startswith(
        f"{tmp_path}/recipe.yaml:5:13: model.connector.0.name: connector `test/heavy` (test-dist 1.0): config "
        "`package_that_is_not_there.config:Options` cannot be imported: ModuleNotFoundError: No module named"
    )
    with pytest.raises(PluginError, match=r"model\.connector\.0\.name: .*`broken` .* is broken: ImportError: no; .*pip it"):
        recipe(tmp_path, heavy[0], "name: broken/mlp\n")

    with pytest.raises(PluginError) as caught:
        recipe(tmp_path, heavy[0], "name: test/rude\n      depth: 2\n")
    assert caught.value.reasons[0].startswith(
        f"{tmp_path}/recipe.yaml:5:7: model.connector.0: connector `test/rude` (test-dist 1.0): checking its options failed: "
        "KeyError: 'oops' ("
    )
    assert refusal(tmp_path, heavy[0], "name: test/rude\n      width: 2\n") == [
        "recipe.yaml:5:7: model.connector.0: `width` (=2) is more than this toy has"
    ]
    # A fault of the config beside it makes the whole a ConfigError: that can be repaired here.
    assert len(refusal(tmp_path, *heavy, ("seed: 7", "sed: 7"))) == 2


def test_sections_made_in_python_are_held_to_the_same_rules(tmp_path):
    stage = recipe(tmp_path).stages[0]
    with pytest.raises(ValueError, match="`micro_batch`: must divide `batch_size` \\(=8\\) without remainder \\(is 3\\)"):
        StageConfig(**{**dict(stage), "micro_batch": 3})
    with pytest.raises(ValueError, match="stands beside `steps`"):
        StageConfig(**{**dict(stage), "epochs": 3})
    with pytest.raises(ValueError, match="has 2 stages"):
        Recipe(model=recipe(tmp_path).model, stages=(stage, stage))
    with pytest.raises(ValueError, match="frozen"):
        stage.steps = 3
    model = recipe(tmp_path).model
    again = ModelConfig(**{**dict(model), "connector": (Choice(model.vision.component, model.vision.config),)})
    assert again.connector[0].component.spec.kind == "vision_encoder"


def test_overrides_must_be_a_list():
    with pytest.raises(TypeError, match="`overrides` must be a list of texts"):
        load_model(MODEL, "connector.depth=3", catalogue())


def test_the_config_language_imports_no_framework():
    heavy = "{'torch', 'transformers', 'timm', 'numpy'}"
    code = f"import sys, vlmzoo.config; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_installed_parts_make_a_recipe_without_a_framework(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: {architecture: unified, vision: toy/vision, connector: connectors/mlp, language: toy/language, template: plain}\n"
        "stages:\n"
        "  - {name: align, objective: caption, data: [{name: captions, path: rows.jsonl, images: .}], batch_size: 2, steps: 3,\n"
        "     train: {connector: {lr: 1e-3}}}\n"
    )
    heavy = "{'torch', 'transformers', 'timm', 'open_clip', 'numpy'}"
    code = f"""
import sys
from vlmzoo.config import load_recipe
recipe = load_recipe({str(path)!r}, ["model.connector.depth=3"])
print(recipe.model.connector[0].config.depth, recipe.stages[0].data[0].config.images, load_recipe(recipe.dump()) == recipe)
sys.exit(', '.join({heavy} & set(sys.modules)) or None)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"3 {tmp_path} True\n"), done.stderr
