"""Overrides: what they set, how their paths are read, and what is said where they lead nowhere."""

# ruff: noqa: E501 (messages stand whole, as they are read)

from pathlib import Path

import pytest
from config_parts import RECIPE, EncoderOptions, MlpOptions, catalogue

from vlmzoo.config import Recipe, TrainFull, load_recipe
from vlmzoo_registry import ConfigError


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def overridden(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides, catalogue())


def refusal(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        overridden(path, *overrides)
    return list(caught.value.reasons)


def test_an_override_sets_one_value_and_leaves_the_others(path):
    changed = overridden(path, "stages.0.batch_size=16", "stages.0.train.connector.lr=1e-4", "model.vision.layers=[-1, 3]")
    stage = changed.stages[0]
    assert (stage.batch_size, stage.micro_batch) == (16, 4)
    assert stage.train["connector"].lr == 1e-4
    assert stage.train["language"] == overridden(path).stages[0].train["language"]
    assert changed.model.vision.config == EncoderOptions(layers=(-1, 3))


def test_a_list_of_one_needs_no_index(path):
    assert overridden(path, "model.connector.depth=3") == overridden(path, "model.connector.0.depth=3")
    assert overridden(path, "model.connector.depth=3").model.connector[0].config == MlpOptions(depth=3, norm_epsilon=1e-6)
    assert overridden(path, "stages.batch_size=16", "stages.data.images=x").stages[0].batch_size == 16


def test_a_value_is_yaml_and_a_part_may_be_replaced_whole(path):
    assert overridden(path, "model.connector=shuffle", "model.connector.factor=2").model.connector[0].config.factor == 2
    both = overridden(path, "model.connector=[test/mlp, {name: shuffle, factor: 3}]", "model.connector.1.factor=4")
    assert [choice.component.full_name for choice in both.model.connector] == ["test/mlp", "test/shuffle"]
    assert both.model.connector[1].config.factor == 4
    assert overridden(path, "stages.0.data.0.label='no = 1'").stages[0].data[0].config.label == "no = 1"
    assert overridden(path, "stages.0.data.0.label=' a #b' ").stages[0].data[0].config.label == " a #b"
    assert overridden(path, "stages.0.steps=null", "stages.0.epochs=2").stages[0].epochs == 2
    assert overridden(path, "model.vision=encoder", "model.vision.final_norm=true").model.vision.config.final_norm


def test_a_path_through_a_key_that_is_not_there_makes_it(path):
    stage = overridden(path, "stages.0.train.vision.lr=1e-5").stages[0]
    assert stage.train["vision"] == TrainFull(lr=1e-5)
    assert overridden(path, "model.vision.patches.size=4").model.vision.config.patches.size == 4
    path.write_text(RECIPE.replace("steps: 100", "steps:"))
    assert overridden(path, "stages.0.steps=3").stages[0].steps == 3
    path.write_text(RECIPE.replace("config: {model_type: llama, hidden_size: 32}", "config:"))
    assert overridden(path, "model.language.config.a=3").model.language.config.config == {"a": 3}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.conector.depth=3", "model.conector: unknown key; did you mean `connector`? (a model knows: architecture, vision, merge, "
         "connector, language, layout, template)"),
        ("model.connector.dept=3", "model.connector.0.dept: unknown key; did you mean `depth`? (test/mlp knows: depth, "
         "hidden_width, norm_epsilon, activation)"),
        ("model.connector.depth=three", "model.connector.0.depth: must be a whole number (is the text `three`)"),
        ("model.template.style.x=3", "model.template.style: unknown key (test/plain has no options)"),
        ("model.architecture.x=3", "model.architecture: is the text `unified`, which has no `x`"),
        ("stages.1.batch_size=3", "stages: has 1 entry, none at index 1 (the first is 0); give the whole list to add one"),
        ("stages.-1.batch_size=3", None),
        ("stages.0.batch_size", "(top level): must be written `path.to.key=value`, for example `stages.0.batch_size=8`"),
        ("stages..batch_size=3", "(top level): must be written `path.to.key=value`, for example `stages.0.batch_size=8`"),
        ("stages.0.batch_size=", "stages.0.batch_size: has no value: write `null` to unset it"),
        ("stages.0.batch_size=[1", "stages.0.batch_size.0: a list that began with `[` does not go on with `,` and does not end "
         "with `]`"),
        ("seed=&x 1", "seed: `&x` is an anchor: write values out where they belong"),
        ("seed={a: 1, a: 2}", "seed.a: the key stands here a second time; remove one"),
        ("seed=# 1", "seed: is empty"),
        ("stages.0.data.0.path=a #b.json", "stages.0.data.0.path: ends before `#b.json`, a comment in YAML: put the value in "
         "quotes"),
        ("stages.0.data=[{name: files, path: a}] # files", "stages.0.data: ends before `# files`, a comment in YAML: put the "
         "value in quotes"),
        ("stages.0.train={}", "stages.0.train: names no part, so nothing would train: name `vision`, `connector` or `language`"),
        ("stages.0.micro_batch=3", "stages.0.micro_batch: must divide `batch_size` (=8) without remainder (is 3)"),
        ("stages.0.data=[]", "stages.0.data: must be a list of at least 1 (is an empty list)"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_named_in_its_own_words(path, override, expected):
    reasons = refusal(path, override)
    if expected is None:
        assert reasons[0].startswith(f"override `{override}`: stages.0.-1: unknown key")
    else:
        assert reasons == [f"override `{override}`: {expected}"]


def test_what_cannot_be_printed_is_escaped(path):
    assert refusal(path, "sed\ud800=1") == [
        r"override `sed\ud800=1`: (top level): contains half of a surrogate pair, which is not a character"
    ]
    assert refusal(path, "seed=\x07") == [r"override `seed=\u0007`: seed: contains the control character U+0007"]
    assert refusal(path, "se d\t.x=1")[0].startswith(r'override `se d\t.x=1`: "se d\t": unknown key; did you mean `seed`?')


def test_several_entries_must_be_told_apart(path):
    assert refusal(path, "model.connector=[mlp, {name: shuffle, factor: 2}]", "model.connector.depth=3")[0] == (
        "override `model.connector.depth=3`: model.connector: has 2 entries: say which, `model.connector.0.depth` (mlp) or "
        "`model.connector.1.depth` (shuffle)"
    )
    assert "has no `depth`; give the whole list" in refusal(path, "model.connector=[]", "model.connector.depth=3")[0]


def test_every_wrong_override_is_said_beside_what_is_wrong_in_the_file(path):
    path.write_text(RECIPE.replace("seed", "sed"))
    reasons = refusal(path, "model.architecture.x=1", "model.vision.width=3", "nonsense")
    assert reasons[0].startswith("override `model.architecture.x=1`: model.architecture: is the text")
    assert reasons[1].startswith("override `nonsense`: (top level): must be written")
    assert reasons[2].startswith(f"{path}:26:1: sed: unknown key")
    assert reasons[3].startswith("override `model.vision.width=3`: model.vision.width: unknown key")
    assert len(reasons) == 4
