"""A stage that cuts rows says how many: step by step in its log, before it trains where it looks at all, and in the check."""

import json

import pytest
from small_models import LLAMA, causal_lm, picture, section
from typer.testing import CliRunner

import vlmzoo
from vlmzoo.cli.entry import app
from vlmzoo.config import load_recipe
from vlmzoo.data_check import check_data
from vlmzoo.training.history import read_log
from vlmzoo.training.samples import make_collator
from vlmzoo.training.train import train
from vlmzoo_registry import AssemblyError, ConfigError

LANGUAGE = {"name": "toy/language", "learned_positions": 600}
SHORT, LONG, NO_ROOM = ["?", "yes"], ["?", "word " * 30], ["a question that is long " * 10, "yes"]


@pytest.fixture
def folder(tmp_path):
    picture(0).save(tmp_path / "0.png")
    return tmp_path


def recipe(folder, *talks, **stage):
    """Rows with an image (16 slots), of which `SHORT` has 39 tokens, `LONG` 185 and `NO_ROOM` 277."""
    rows = [
        {
            "image": "0.png",
            "id": str(number),
            "conversations": [{"from": "human", "value": f"<image>{question}"}, {"from": "gpt", "value": answer}],
        }
        for number, (question, answer) in enumerate(talks)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = {
        "name": "first",
        "objective": "instruct",
        "data": [{"name": "llava", "path": str(folder / "rows.jsonl"), "images": str(folder)}],
        "train": {"connector": {"lr": 1e-3}},
        "batch_size": 2,
        "steps": 3,
        "log_every": 1,
    }
    template = {"name": "vicuna_v1", "system": None}
    return {"model": section(language=LANGUAGE) | {"template": template}, "stages": [first | stage]}


def test_the_log_counts_the_rows_that_were_cut_so_far(folder):
    result = train(recipe(folder, SHORT, LONG, max_length=100, too_long="cut"), output=folder / "run")
    log = read_log(result.checkpoint.parent)
    assert [step["rows_cut"] for step in log.steps] == [1, 2, 3]  # each step has both rows
    assert log.end["rows_cut"] == 3
    plain = train(recipe(folder, SHORT, LONG), output=folder / "plain")
    assert read_log(plain.checkpoint.parent).end["rows_cut"] == 0
    assert result.tokens == plain.tokens - 3 * 85


def test_the_count_goes_on_where_a_run_is_taken_up(folder, monkeypatch):
    config = recipe(folder, SHORT, LONG, max_length=100, too_long="cut", save_every=1)
    calls = []

    def killed(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return set_rates(*arguments, **options)

    from vlmzoo.training import fit
    from vlmzoo.training.optimization import set_rates

    monkeypatch.setattr(fit, "set_rates", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, output=folder / "run")
    result = train(config, output=folder / "run")
    assert [step["rows_cut"] for step in read_log(result.checkpoint.parent).steps] == [1, 2, 3]


def test_cut_rows_are_the_same_however_they_stand_in_a_batch(folder):
    model = section(language=causal_lm(LLAMA | {"max_position_embeddings": 600}))
    found = {}
    for mode in ("padded", "flatten"):
        stage = {"max_length": 100, "too_long": "cut", "batching": {"mode": mode}}
        result = train(recipe(folder, SHORT, LONG, **stage) | {"model": model}, output=folder / mode)
        found[mode] = (result.tokens, read_log(result.checkpoint.parent).end["rows_cut"], result.losses)
    assert found["padded"][:2] == found["flatten"][:2] == (found["padded"][0], 3)
    assert found["padded"][2] == pytest.approx(found["flatten"][2], rel=1e-5)


def test_the_check_says_how_many_are_cut_and_how_many_refused(folder):
    (found,) = check_data(recipe(folder, SHORT, LONG, NO_ROOM, max_length=100, too_long="cut"))
    assert found.notes == ("max_length: cut 1 of 3 rows, refused 1",)
    assert (found.samples, found.bad_rows) == (2, 1)
    assert found.faults[0].reason.endswith("the beginning of one are never cut: raise it, or drop the row")
    (refused,) = check_data(recipe(folder, SHORT, LONG, NO_ROOM, max_length=100))
    assert refused.notes == ("max_length: cut 0 of 3 rows, refused 2",)
    (whole,) = check_data(recipe(folder, SHORT, LONG, NO_ROOM))
    assert whole.notes == ()
    config = folder / "recipe.json"
    config.write_text(json.dumps(recipe(folder, SHORT, LONG, max_length=100, too_long="cut")))
    done = CliRunner().invoke(app, ["labels", str(config), "--check"])
    assert done.exit_code == 0
    assert "  max_length: cut 1 of 2 rows, refused 0" in done.stdout.splitlines()


def test_rows_that_cannot_be_cut_are_left_out_within_the_budget(folder):
    config = recipe(folder, SHORT, LONG, NO_ROOM, max_length=100, too_long="cut", on_bad_row="skip", max_bad_rows=1)
    header = read_log(train(config, output=folder / "run").checkpoint.parent).stage
    assert header["notes"] == ["tasks/llava: max_length: cut 1 of 3 rows, refused 1"]
    assert [entry["row"] for entry in header["left_out"]] == [f"{folder}/rows.jsonl:3"]


def test_a_length_beyond_the_positions_of_the_model_is_refused(folder):
    plan = load_recipe(recipe(folder, SHORT, max_length=601))
    with pytest.raises(AssemblyError) as caught:
        make_collator(vlmzoo.build(plan.model), plan.stages[0])
    assert caught.value.message == (
        "stage `first`: `max_length` (=601) is more than the 600 positions that the language model has: lower it, or take a "
        "language model with more"
    )
    with pytest.raises(AssemblyError, match=r"`max_length` \(=601\) is more than the 600 positions"):
        vlmzoo.plan(plan)
    with pytest.raises(ConfigError, match="too_long: must be one of `refuse`, `cut`"):
        load_recipe(recipe(folder, SHORT, too_long="truncate"))


@pytest.mark.parametrize(("most", "room"), [(16, False), (17, True)])
def test_a_plan_says_where_no_image_has_room(folder, most, room):
    """16 slots, and a token of a word."""
    notes = vlmzoo.plan(load_recipe(recipe(folder, SHORT, max_length=most))).notes
    said = f"stage `first`: an image has 16 tokens in the text, and a row may have {most} (`max_length`)"
    assert [note for note in notes if "max_length" in note] == (
        [] if room else [f"{said}: no row with such an image can be learnt"]
    )
