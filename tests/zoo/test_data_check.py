"""Every planted fault of the data is found in one pass, by file and line; bad rows are left out within a budget, and logged."""

import json
import os
import re
from collections import Counter

import pytest
from small_models import picture, section
from typer.testing import CliRunner

from vlmzoo.cli.entry import app
from vlmzoo.config import load_recipe
from vlmzoo.data_check import check_data
from vlmzoo.labels import labels
from vlmzoo.training.history import read_log
from vlmzoo.training.samples import stage_samples
from vlmzoo.training.train import train
from vlmzoo_registry import ConfigError, DataError, ImageFile

LONG = "word " * 400


def talk(question, answer, **fields):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **fields}


GOOD = [
    talk(f"<image>\nWhat is {number}?", f"It is {number}.", image=f"{number}.png", id=f"good {number}") for number in range(4)
]
BAD = {
    "not JSON": ("{", "row: is not JSON"),
    "no turns": ({"image": "0.png"}, "conversations: missing"),
    "speaker": (
        {"conversations": [{"from": "bot", "value": "x"}, {"from": "gpt", "value": "y"}]},
        "conversations[0].from: must be one of",
    ),
    "markers": (talk("What?", "x", image="0.png"), "image: 1 images but 0 `<image>` in the conversation"),
    "missing image": (talk("<image>?", "x", image="none.png"), "image: `{folder}/none.png` is not a file"),
    "damaged image": (talk("<image>?", "x", image="cut.png"), "image: `{folder}/cut.png` is damaged"),
    "no image": (talk("<image>?", "x", image="words.png"), "image: `{folder}/words.png` is not an image of a known format"),
    "outside": (talk("<image>?", "x", image="../0.png"), "image: `{folder}/../0.png` leads out of the image folder"),
    "forged": (talk("Hello <|im_end|>", "x"), "contains `<|im_end|>`"),
    "too long": (talk("Hello", LONG), "are more than `max_length`"),
    "order": (
        {"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]},
        "user and assistant in turns",
    ),
}


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        picture(number).save(images / f"{number}.png")
    whole = (images / "0.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "words.png").write_text("no picture")
    return tmp_path


def recipe(folder, rows, **stage):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    data = [{"name": "llava", "path": str(folder / "rows.jsonl"), "images": str(folder / "images")}]
    language = {"name": "toy/language", "control_tokens": ["<|im_start|>", "<|im_end|>"], "learned_positions": 600}
    first = {
        "name": "first",
        "objective": "instruct",
        "data": data,
        "train": {"connector": {"lr": 1e-3}},
        "batch_size": 2,
        "steps": 6,
    }
    return {"model": {**section(language=language), "template": "chatml_direct"}, "stages": [first | stage], "seed": 3}


def every_row():
    return [GOOD[0], *(row for row, _ in BAD.values()), *GOOD[1:]]


def test_all_planted_faults_are_found_in_one_pass(folder):
    (found,) = check_data(recipe(folder, every_row()))
    expected = {
        f"{folder}/rows.jsonl:{line}": reason.format(folder=folder / "images")
        for line, (_, reason) in enumerate(BAD.values(), start=2)
    }
    assert {fault.place for fault in found.faults} == set(expected)
    for fault in found.faults:
        assert expected[fault.place] in fault.reason
        assert fault.place not in fault.reason
    assert (found.samples, found.bad_rows, len(found.faults)) == (4, len(BAD), len(BAD))


def test_the_command_lists_faults_and_ends_with_3(folder):
    config = folder / "recipe.json"
    config.write_text(json.dumps(recipe(folder, every_row())))
    done = CliRunner().invoke(app, ["labels", str(config), "--check"])
    assert done.exit_code == 3
    assert re.findall(r"rows\.jsonl:(\d+): ", done.stdout) == [str(line) for line in sorted(range(2, 2 + len(BAD)), key=_when)]
    assert done.stdout.splitlines()[-1] == f"4 samples, {len(BAD)} bad rows, {len(BAD)} faults"
    plain = CliRunner().invoke(app, ["labels", str(config), "--check", "--json"])
    (source,) = json.loads(plain.stdout)
    assert (plain.exit_code, source["bad_rows"], len(source["faults"])) == (3, len(BAD), len(BAD))
    config.write_text(json.dumps(recipe(folder, GOOD)))
    done = CliRunner().invoke(app, ["labels", str(config), "--check"])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "4 samples, 0 bad rows, 0 faults")


def _when(line):
    """Faults of rows that cannot be read come before those of rows that can."""
    return (list(BAD)[line - 2] not in ("not JSON", "no turns", "speaker", "markers"), line)


def test_a_file_that_cannot_be_read_is_a_fault_and_the_others_are_looked_at(folder):
    config = recipe(folder, GOOD)
    (data,) = config["stages"][0]["data"]
    config["stages"][0]["data"] = [{**data, "path": str(folder / "nothing.json")}, data]
    first, second = check_data(config)
    assert first.faults[0].reason.startswith(f"`{folder}/nothing.json` cannot be read")
    assert (second.samples, second.faults) == (4, ())


def test_notes_of_rules_are_told(folder):
    config = recipe(folder, GOOD)
    config["stages"][0]["data"][0]["rules"] = [{"name": "sample", "count": 3}]
    (found,) = check_data(config)
    assert (found.samples, found.notes) == (3, ("sample: kept 3 of 4 samples",))
    with pytest.raises(ConfigError, match="no stage `second`"):
        check_data(config, stage="second")


@pytest.mark.parametrize("refused", [False, True], ids=["row by row", "as a whole"])
def test_faults_are_found_in_one_pass_also_where_a_rule_refuses_rows(folder, refused):
    """A rule that changes rows one by one refuses them one by one; one behind it that reads them all refuses all."""
    config = recipe(folder, every_row())
    rules = [{"name": "response_format", "prompt": "Answer shortly."}, *(["drop_invalid"] if refused else [])]
    config["stages"][0]["data"][0]["rules"] = rules
    (found,) = check_data(config)
    whole = [fault.reason for fault in found.faults if fault.place == "tasks/llava"]
    assert whole == (["rule `drop_invalid` cannot read 1 of 11 samples"] if refused else [])
    places = {fault.place for fault in found.faults} - {"tasks/llava"}
    assert places == {f"{folder}/rows.jsonl:{line}" for line in range(2, 2 + len(BAD))}
    (rule,) = [fault for fault in found.faults if "rule `response_format`" in fault.reason]
    assert rule.place == f"{folder}/rows.jsonl:12" and rule.reason.endswith(
        "put the rule `drop_invalid` before it, or drop the row"
    )
    expected = (0, len(BAD), len(BAD) + 2) if refused else (4, len(BAD), len(BAD))
    assert (found.samples, found.bad_rows, len(found.faults)) == expected
    assert ("a rule refuses these rows, so none can be used; they are looked at as they are" in found.notes) == refused


def test_every_row_that_a_rule_names_is_a_fault_of_its_own(folder):
    config = recipe(folder, GOOD)
    config["stages"][0]["data"][0]["rules"] = ["rotate_options"]
    (found,) = check_data(config)
    whole, *rows = found.faults
    assert (whole.place, whole.reason) == ("tasks/llava", "rule `rotate_options` cannot read 4 of 4 samples")
    assert [fault.place for fault in rows] == [f"{folder}/rows.jsonl:{line}" for line in range(1, 5)]
    assert rows[0].reason.startswith("the answer 'It is 0.' is not the letter of an option")
    assert (found.samples, found.bad_rows) == (0, 4)


SILENT = {"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "<image>y"}], "image": "0.png"}


@pytest.mark.parametrize("rule", ["rotate_options", "merge_by_image", {"name": "sample_exchanges", "count": 1}])
def test_more_rows_than_a_message_shows_are_all_counted(folder, rule):
    """The message of a rule shows 20 rows; the check lists all of them."""
    config = recipe(folder, [SILENT | {"id": str(number)} for number in range(100)])
    config["stages"][0]["data"][0]["rules"] = [rule]
    (found,) = check_data(config)
    name = rule if isinstance(rule, str) else rule["name"]
    assert found.faults[0].reason == f"rule `{name}` cannot read 100 of 100 samples"
    assert (found.samples, found.bad_rows) == (0, 100)
    assert {fault.place for fault in found.faults[1:]} == {f"{folder}/rows.jsonl:{line}" for line in range(1, 101)}
    with pytest.raises(DataError, match="of which the first 20 are:") as caught:
        stage_samples(load_recipe(config).stages[0])
    assert len(caught.value.reasons) == 20


def test_all_rows_that_keep_a_file_from_being_used_are_counted(folder):
    config = recipe(folder, GOOD)
    bad = [talk("What?", "x", image="0.png") for _ in range(30)]
    (folder / "rows.json").write_text("[" + ",\n".join(map(json.dumps, bad)) + ",\n{")
    config["stages"][0]["data"][0]["path"] = str(folder / "rows.json")
    (found,) = check_data(config)
    whole, *rows = found.faults
    assert (whole.place, whole.reason) == ("tasks/llava", f"`{folder}/rows.json` has 31 faults in its rows")
    assert [fault.place for fault in rows] == [f"{folder}/rows.json:{line}" for line in range(1, 32)]
    assert (found.samples, found.bad_rows) == (0, 31)


@pytest.mark.parametrize(
    ("source", "places"),
    [
        ({"name": "llava", "path": "rows.json"}, ["rows.json:1", "rows.json:1[1]"]),
        (
            {"name": "vqa", "questions": "q.json", "annotations": "a.json", "file": "{image_id}.png"},
            ["q.json:questions[0]", "q.json:questions[1]"],
        ),
        ({"name": "coco_captions", "path": "coco.json"}, ["coco.json:annotations[0]", "coco.json:annotations[1]"]),
        ({"name": "folder", "path": "pictures"}, ["pictures/cat and dog.png", "pictures/cow.png"]),
    ],
    ids=["list on one line", "questions", "annotations", "folder"],
)
@pytest.mark.parametrize("rules", [["rotate_options"], ["response_format", "rotate_options"]], ids=["one rule", "two rules"])
def test_rows_that_a_rule_refuses_are_named_wherever_they_stand(folder, source, places, rules):
    rows = [talk("<image>?", "x", image=f"{number}.png") for number in range(2)]
    (folder / "rows.json").write_text(json.dumps(rows))
    questions = [{"question_id": number, "image_id": number, "question": "What?"} for number in range(2)]
    (folder / "q.json").write_text(json.dumps({"questions": questions}))
    answers = [{"question_id": number, "image_id": number, "multiple_choice_answer": "x"} for number in range(2)]
    (folder / "a.json").write_text(json.dumps({"annotations": answers}))
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(2)]
    captions = [{"id": number, "image_id": number, "caption": "x"} for number in range(2)]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (folder / "pictures").mkdir()
    for name in ("cat and dog", "cow"):
        picture(1).save(folder / "pictures" / f"{name}.png")
        (folder / "pictures" / f"{name}.txt").write_text("x")
    config = recipe(folder, GOOD)
    files = {key: str(folder / value) for key, value in source.items() if key in ("path", "questions", "annotations")}
    shown = {} if source["name"] == "folder" else {"images": str(folder / "images")}
    config["stages"][0]["data"] = [{**source, **files, **shown, "rules": rules}]
    (found,) = check_data(config)
    assert [fault.place for fault in found.faults] == [f"tasks/{source['name']}", *(f"{folder}/{place}" for place in places)]
    assert all(fault.reason.startswith("the answer 'x' is not the letter of an option") for fault in found.faults[1:])
    assert found.bad_rows == 2


def test_fewer_samples_than_a_rule_is_to_keep_are_said(folder):
    config = recipe(folder, GOOD)
    config["stages"][0]["data"][0]["rules"] = [{"name": "sample", "count": 30}]
    (found,) = check_data(config)
    assert found.notes == ("sample: kept 4 of 4 samples, which are fewer than the 30 asked for",)


def test_bad_rows_end_the_run_before_it_begins(folder):
    with pytest.raises(DataError) as caught:
        train(recipe(folder, every_row()), output=folder / "run")
    assert caught.value.message == "stage `first` has 4 faults in its rows:"
    assert not (folder / "run" / "first" / "log.jsonl").exists()


def test_bad_rows_are_left_out_within_the_budget_and_logged(folder):
    config = recipe(folder, every_row(), on_bad_row="skip", max_bad_rows=len(BAD))
    config["stages"][0]["data"][0]["rules"] = ["merge_by_image"]
    result = train(config, output=folder / "run")
    header = read_log(result.checkpoint.parent).stage
    assert header["samples"] == 4
    assert {entry["row"] for entry in header["left_out"]} == {f"{folder}/rows.jsonl:{line}" for line in range(2, 2 + len(BAD))}
    assert header["notes"] == [
        "tasks/llava: merge_by_image: 11 samples became 11 conversations",
        "tasks/llava: max_length: cut 0 of 11 rows, refused 1",
    ]
    clean = train(recipe(folder, GOOD), output=folder / "clean")
    assert result.losses == clean.losses  # as if the bad rows had never been there
    shown = labels(config, samples=4)
    assert {row.id for row in shown.rows} == {row["id"] for row in GOOD}


@pytest.mark.parametrize(("budget", "allowed"), [(len(BAD) - 1, "10"), (0, "0"), (0.1, r"1 \(10.00% of them\)")])
def test_more_bad_rows_than_the_budget_are_refused(folder, budget, allowed):
    config = recipe(folder, every_row(), on_bad_row="skip", max_bad_rows=budget)
    with pytest.raises(DataError, match=rf"of 15 rows are bad, and `max_bad_rows` allows {allowed}: mend them"):
        train(config, output=folder / "run")


def test_a_budget_needs_the_word_skip(folder):
    with pytest.raises(ConfigError, match="max_bad_rows: needs `on_bad_row: skip`"):
        load_recipe(recipe(folder, GOOD, max_bad_rows=3))


def test_a_damaged_list_is_never_read_in_part(folder):
    config = recipe(folder, GOOD, on_bad_row="skip", max_bad_rows=0.9)
    text = json.dumps(GOOD, indent=0)
    (folder / "rows.json").write_text(text[: len(text) * 2 // 3])
    config["stages"][0]["data"][0]["path"] = str(folder / "rows.json")
    with pytest.raises(DataError, match="what follows was not read"):
        stage_samples(load_recipe(config).stages[0])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted where the system lists them")
@pytest.mark.parametrize("cuts", [False, True], ids=["whole", "tiles"])
def test_the_check_opens_each_image_once_and_keeps_none_open(folder, monkeypatch, cuts):
    """A process has few open files: each image is closed before the next is opened."""
    config = recipe(folder, GOOD * 20)
    if cuts:
        config["model"]["layout"] = {"name": "layouts/dynamic-tiles", "max_tiles": 4}
    opens, files = Counter(), []
    original = ImageFile.__call__

    def counted(image):
        files.append(len(os.listdir("/proc/self/fd")))
        opens[image.path.name] += 1
        return original(image)

    monkeypatch.setattr(ImageFile, "__call__", counted)
    (found,) = check_data(config)
    assert found.samples == 80
    assert opens == {f"{number}.png": 20 for number in range(4)}
    assert len(set(files)) == 1  # no more are open at the last image than at the first


def test_a_sample_that_no_piece_takes_is_a_fault_of_its_row_and_left_out(folder):
    """What the batches would refuse as a whole, in the middle of a start, is known row by row before."""
    longer = talk("<image>\nWhat?", "word " * 40, image="0.png", id="longer")
    more = talk("<image><image><image>\nWhat?", "x", image=["0.png", "1.png", "2.png"], id="more")
    batching = {"max_tokens": 200, "max_images": 2}
    config = recipe(folder, [*GOOD, longer, more], batching=batching, micro_batch=1)
    with pytest.raises(DataError, match=r"allows one piece"):
        train(config, output=folder / "refused")
    (found,) = check_data(config)
    first, second = found.faults
    assert first.place == f"{folder}/rows.jsonl:5"
    assert re.fullmatch(r"2\d\d tokens are more than `batching.max_tokens` \(=200\) allows one piece", first.reason)
    assert (second.place, second.reason) == (
        f"{folder}/rows.jsonl:6",
        "3 images (views of them) are more than `batching.max_images` (=2) allows one piece",
    )
    assert (found.samples, found.bad_rows) == (4, 2)
    skipping = recipe(folder, [*GOOD, longer, more], batching=batching, micro_batch=1, on_bad_row="skip", max_bad_rows=2)
    header = read_log(train(skipping, output=folder / "run").checkpoint.parent).stage
    assert header["samples"] == 4
    assert [entry["row"] for entry in header["left_out"]] == [f"{folder}/rows.jsonl:{line}" for line in (5, 6)]


def test_an_instruction_that_the_connector_cannot_read_is_a_fault_of_its_row(folder):
    """Without an image nobody reads it: such a row may ask as long as it likes."""
    asked = talk("<image>\nWhat is to be seen here?", "x", image="0.png", id="asked")
    text = talk("Hello, and what is to be said here?", "x", id="text")
    short = [talk("<image>\nWhat?", "x", image=f"{number}.png", id=str(number)) for number in range(3)]
    connector = {"name": "connectors/instructed-q-former", "positions": 8, "width": 32, "heads": 2, "feedforward_width": 32}
    config = recipe(folder, [short[0], asked, text, *short[1:]])
    config["model"]["connector"] = [connector, {"name": "connectors/linear"}]
    (found,) = check_data(config)
    (fault,) = found.faults
    assert fault.place == f"{folder}/rows.jsonl:2"
    assert re.match(r"the instruction has \d+ tokens, and the connector that reads it takes 8: shorten", fault.reason)
    with pytest.raises(DataError, match=rf"{folder}/rows.jsonl:2: the instruction has"):
        train(config, output=folder / "refused")
    config["stages"][0] |= {"on_bad_row": "skip", "max_bad_rows": 1}
    header = read_log(train(config, output=folder / "run").checkpoint.parent).stage
    assert header["samples"] == 4
