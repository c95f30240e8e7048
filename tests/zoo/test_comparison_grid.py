"""Grids are read like recipes: every reason at once, with its line, before anything is trained."""

from functools import partial

import pytest
from comparison_toys import write_toys

from vlmzoo.comparison.cells import combinations_of
from vlmzoo.comparison.compare import plan_comparison
from vlmzoo.config import load_grid
from vlmzoo_registry import ConfigError, DataError, VlmzooError

BAD = """\
bse: recipe.yaml
axes:
  connector:
    linear: model.connector=connectors/linear
    m/lp: [model.connector=connectors/mlp]
  architecture: {unified: []}
skip: {conector: linear}
seeds: [0, 0]
budget: {supervised_tokens: 100, steps: 3}
evaluate:
  metrics: [exat]
  limt: 3
"""


@pytest.fixture
def toys(tmp_path):
    return partial(write_toys, tmp_path)


def refusal(action, kind: type[VlmzooError] = ConfigError) -> list[str]:
    with pytest.raises(kind) as refused:
        action()
    assert refused.type is kind
    return [refused.value.message, *refused.value.reasons]


def test_everything_wrong_with_a_grid_is_said_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    first, *reasons = refusal(lambda: load_grid(path))
    assert first == f"{path} cannot be used, for 8 reasons"
    assert [reason.removeprefix(f"{path}:") for reason in reasons] == [
        "1:1: bse: unknown key; did you mean `base`? (a grid knows: base, quickstart, overrides, axes, skip, seeds, budget, "
        "evaluate)",
        "3:3: axes: has the name `m/lp`: a name has at most 40 letters, digits, `_`, `.` and `-`, as folders are called so",
        "7:7: skip: names the axis `conector`, which there is not; did you mean `connector`?",
        "8:8: seeds: has 0 more than once: the same seed gives the same run",
        "9:41: budget.steps: stands beside `supervised_tokens`: give one of them, not both",
        "10:1: evaluate.data: is missing: give `data`, or `held_out` with the changes to the last stage's data",
        "11:13: evaluate.metrics.0.name: no metric is named `exat`; did you mean `exact`? (`vlmzoo list --kind metric` shows "
        "all 2)",
        "12:3: evaluate.limt: unknown key; did you mean `limit`? (`evaluate` knows: data, held_out, metrics, max_new_tokens, "
        "limit, batch_size)",
    ]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("base=null", "base: is missing: the path of a recipe, or `quickstart: true`"),
        ("quickstart=true", "quickstart: stands beside `base`: give one of them, not both"),
        ("budget={}", "budget.supervised_tokens: is missing: give one of `supervised_tokens`, `images`, `steps`, `seconds`"),
        ("budget={seconds: 0}", "budget.seconds: must be greater than 0 (is 0)"),
        ("seeds=[]", "seeds: must be a list of at least 1 (is an empty list)"),
        ("axes={}", "axes: is empty: name an axis, with the values that are compared"),
        ("axes.architecture={}", "axes: has no value for `architecture`: name what is compared"),
        ("skip=[{connector: mpl}]", "skip: names `mpl`, which axis `connector` does not have; did you mean `mlp`?"),
        ("skip=[{}]", "skip: has an empty entry, which would leave out everything"),
        (
            "skip=[{connector: [mlp, linear]}]",
            "skip: names no value of axis `connector`: give one for each entry, `{connector: linear}`",
        ),
        ("skip=[{architecture: unified}, {architecture: cross}]", "skip: leaves out every combination"),
        ("evaluate.metrics=[exact, exact]", "evaluate.metrics: has `exact` 2 times: once is enough"),
        ("evaluate.held_out=[{split: heldout}]", "evaluate.held_out: stands beside `data`: give one of them, not both"),
        ("evaluate.max_new_tokens=0", "evaluate.max_new_tokens: must be at least 1 (is 0)"),
    ],
)
def test_each_rule_has_its_words(toys, override, says):
    grid = toys()
    _, *reasons = refusal(lambda: load_grid(grid, [override]))
    assert any(says in reason for reason in reasons), reasons


def test_the_combinations_are_the_product_without_what_is_left_out(toys):
    grid, _ = load_grid(toys())
    assert ["+".join(values.values()) for values in grid.combinations()] == ["linear+unified", "mlp+unified", "mlp+cross"]
    again, _ = load_grid(grid.dump())
    assert again == grid
    every, _ = load_grid(toys(), ["skip=[]"])
    assert len(every.combinations()) == 4


def test_cells_that_cannot_be_are_named_with_the_lines_that_make_them(toys):
    grid = toys()
    lines = grid.read_text().splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if "linear:" in text)
    grid.write_text(
        grid.read_text()
        .replace("model.connector=connectors/linear", "model.connector=connectors/linaer")
        .replace("every: 1, heads", "every: 1, hads")
    )
    first, *reasons = refusal(lambda: plan_comparison(grid))
    assert first == "the grid has cells that cannot be trained"
    assert len(reasons) == 2
    assert reasons[0].startswith(
        f"linear+unified: {grid}:{line}:13: override `model.connector=connectors/linaer`: model.connector.0.name: no connector "
        "is named `connectors/linaer`; did you mean `connectors/linear`?"
    )
    assert "mlp+cross: " in reasons[1] and f"{grid}:{line + 6}:9: " in reasons[1] and "did you mean `heads`" in reasons[1]


def test_parts_that_do_not_fit_are_found_before_training(toys):
    grid = toys()
    grid.write_text(grid.read_text().replace("      - model.architecture=cross_attention\n", ""))
    _, *reasons = refusal(lambda: plan_comparison(grid))
    assert reasons == [
        "mlp+cross: `connector.0` (connectors/cross-attention) builds blocks in the decoder: use `architecture: "
        "cross_attention`, or another connector"
    ]


def test_what_is_wrong_everywhere_is_said_once(toys):
    grid = toys()
    _, *reasons = refusal(lambda: plan_comparison(grid, overrides=["overrides=[stages.0.bach_size=3]"]))
    assert len(reasons) == 1
    assert (
        reasons[0].startswith("every cell: override `overrides=[stages.0.bach_size=3]`: override `stages.0.bach_size=3`: ")
        and "did you mean `batch_size`" in reasons[0]
    )
    _, *reasons = refusal(lambda: plan_comparison(grid, overrides=[f"base={grid.parent}/recip.yaml"]))
    assert len(reasons) == 1
    assert reasons[0].startswith("every cell: ") and "did you mean `recipe.yaml`" in reasons[0]


def test_held_out_changes_the_options_of_the_last_stages_data(toys):
    grid = toys()
    (grid.parent / "other.jsonl").write_text('{"image": "0.png", "caption": "one"}\n{"image": "1.png", "caption": "two"}\n')
    other = str(grid.parent / "other.jsonl")
    changed = ["evaluate.data=[]", f"evaluate.held_out=[{{path: {other}}}, {{}}]"]
    cells = plan_comparison(grid, overrides=changed)
    for cell in cells:
        assert [choice.config.path.name for choice in cell.combination.questions] == ["other.jsonl", "rows.jsonl"]
    _, *reasons = refusal(lambda: plan_comparison(grid, overrides=["evaluate.data=[]", "evaluate.held_out=[{pth: x}]"]))
    assert len(reasons) == 1 and "pth: unknown key; did you mean `path`?" in reasons[0], reasons


def test_questions_that_cannot_be_asked_are_found_before_training(toys):
    grid = toys()
    (grid.parent / "same.jsonl").write_text('{"image": "0.png", "caption": "one"}\n' * 3)
    same = f"evaluate.data=[{{name: captions, path: {grid.parent}/same.jsonl, images: {grid.parent}}}]"
    _, *reasons = refusal(lambda: plan_comparison(grid, overrides=[same]), DataError)
    assert len(reasons) == 1
    assert reasons[0].startswith("every cell: images cannot be shuffled: 3 of the 3 samples with 1 image show the same (")


def test_bad_rows_are_found_before_training(toys):
    grid = toys()
    with (grid.parent / "rows.jsonl").open("a") as rows:
        rows.write('{"image": "0.png", "caption": " "}\n')
    _, *reasons = refusal(lambda: plan_comparison(grid), DataError)
    assert len(reasons) == 1
    assert reasons[0].startswith("every cell: ") and "rows.jsonl:9" in reasons[0]


def test_a_recipe_that_ships_is_a_base_by_its_name(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = "axes={connector: {linear: model.connector=connectors/linear}}"
    grid, root = load_grid(toys(), ["base=vit-gpt2-coco", "skip=[]", axes])
    (combination,) = combinations_of(grid, root, lambda _: None)
    assert [choice.component.full_name for choice in combination.recipe.model.connector] == ["connectors/linear"]
    assert combination.recipe.model.language.config.model == "openai-community/gpt2"
    (tmp_path / "vit-gpt2-coco").write_text("{}")  # a file of that name comes first
    with pytest.raises(ConfigError, match="vit-gpt2-coco:1:1: stages: is missing"):
        combinations_of(grid, root, lambda _: None)
