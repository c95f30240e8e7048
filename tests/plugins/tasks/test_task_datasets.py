"""Rows become samples; bad rows are all named before anything runs, bad images when they are opened."""

import gzip
import json
import pickle

import pytest
from PIL import Image

from vlmzoo_registry import BadRowsError, DataError
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.captions import CaptionsDataset
from vlmzoo_tasks.config import CaptionsConfig, LlavaConfig
from vlmzoo_tasks.llava import LlavaDataset


def lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 3), "red").save(tmp_path / "images" / "red.png")
    Image.new("RGB", (4, 3), "blue").save(tmp_path / "images" / "blue.png")
    return tmp_path / "images"


def captions(path, images):
    return CaptionsDataset(CaptionsConfig(path=path, images=images))


def llava(path, images):
    return LlavaDataset(LlavaConfig(path=path, images=images))


def test_captions_become_samples(tmp_path, images):
    path = lines(
        tmp_path / "rows.jsonl", [{"image": "red.png", "caption": "red"}, "", {"image": "blue.png", "caption": "b", "id": 5}]
    )
    dataset = captions(path, images)
    assert len(dataset) == 2
    first, second = dataset[0], dataset[1]
    assert first.turns == (Turn("user", IMAGE), Turn("assistant", "red"))
    assert (first.id, first.source) == ("1", f"{path}:1")
    assert (second.id, second.source) == ("5", f"{path}:3")
    image = second.images[0]()
    assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (4, 3), (0, 0, 255))


@pytest.mark.parametrize("name", ["rows.json", "rows.json.gz", "rows.jsonl.gz"])
def test_forms_of_a_file_give_the_same_rows(tmp_path, images, name):
    rows = [{"image": "red.png", "caption": "a line\u2028that goes on"}, {"image": "blue.png", "caption": "b"}]
    text = (
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        if "jsonl" in name
        else "[\n" + ",\n".join(map(json.dumps, rows)) + "]"
    )
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    dataset = captions(path, images)
    assert [dataset[i].turns[1].text for i in range(2)] == ["a line\u2028that goes on", "b"]
    assert [dataset[i].source for i in range(2)] == [f"{path}:{n}" for n in ((1, 2) if "jsonl" in name else (2, 3))]


def test_llava_rows_become_samples(tmp_path, images):
    rows = [
        {
            "id": "x",
            "image": "red.png",
            "conversations": [
                {"from": "human", "value": f"{IMAGE}\nWhat?"},
                {"from": "gpt", "value": "Red."},
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "Yes."},
            ],
        },
        {
            "id": 2,
            "image": ["red.png", "blue.png"],
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": f"{IMAGE}{IMAGE}"},
                {"from": "gpt", "value": "Two."},
            ],
        },
        {"id": "text", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]},
    ]
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(rows, indent=1))
    dataset = llava(path, images)
    assert [len(dataset[i].images) for i in range(3)] == [1, 2, 0]
    assert [turn.role for turn in dataset[1].turns] == ["system", "user", "assistant"]
    assert dataset[0].turns[3] == Turn("assistant", "Yes.")
    assert [dataset[i].id for i in range(3)] == ["x", "2", "text"]
    starts = [number for number, line in enumerate(path.read_text().split("\n"), 1) if line == " {"]
    assert [dataset[i].source for i in range(3)] == [f"{path}:{line}" for line in starts]
    assert [image().getpixel((0, 0)) for image in dataset[1].images] == [(255, 0, 0), (0, 0, 255)]


BAD_CAPTIONS = [
    ({"caption": "x"}, "image: missing (the row has caption)"),
    ({"image": "red.png"}, "caption: missing (the row has image)"),
    ({"image": 3, "caption": "x"}, "image: must be a text (is int)"),
    ({"image": "red.png", "caption": ["x"]}, "caption: must be a text (is list)"),
    ({"image": "red.png", "caption": " \n"}, "caption: empty: fill it, or drop the row"),
    ({"image": "red.png", "caption": "an <image> here"}, "caption: contains `<image>`"),
    ({"image": "red.png", "caption": "x", "id": [1]}, "id: must be a text or a whole number (is list)"),
    ({"image": "red.png", "caption": "x", "id": " "}, "id: is empty: give it a text, or leave it out"),
    ("[1, 2]", "row: must be an object of fields (is list)"),
    ('{"image": ', "row: is not JSON (Expecting value"),
]


def test_bad_captions_are_all_named(tmp_path, images):
    path = lines(tmp_path / "rows.jsonl", [row for row, _ in BAD_CAPTIONS])
    with pytest.raises(DataError) as caught:
        captions(path, images)
    assert caught.value.message == f"`{path}` has {len(BAD_CAPTIONS)} faults in its rows:"
    for number, ((_, reason), said) in enumerate(zip(BAD_CAPTIONS, caught.value.reasons, strict=True), start=1):
        assert said.startswith(f"{path}:{number}: {reason}")
    # Each fault is caught alone as well, beside a good row.
    good = {"image": "red.png", "caption": "red"}
    for row, reason in BAD_CAPTIONS:
        with pytest.raises(DataError) as caught:
            captions(lines(path, [good, row, good]), images)
        assert caught.value.message == f"`{path}` has 1 fault in its rows:"
        assert caught.value.reasons[0].startswith(f"{path}:2: {reason}")


def conversation(*turns, **fields):
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns], **fields}


BAD_LLAVA = [
    (conversation(("human", "x"), ("gpt", "y"), image="red.png"), ["image: 1 images but 0 `<image>` in the conversation"]),
    (conversation(("human", IMAGE * 2), ("gpt", "y"), image="red.png"), ["image: 1 images but 2 `<image>`"]),
    (conversation(("human", IMAGE), ("gpt", "y")), ["image: 0 images but 1 `<image>`"]),
    (
        conversation(("humans", IMAGE), ("gpt", "y"), image="red.png"),
        ["conversations[0].from: must be one of system, human, gpt (is 'humans'); did you mean `human`?"],
    ),
    (conversation(("human", "x"), ("gpt", "")), ["value: empty", "conversations: no turn is from gpt"]),
    (conversation(("human", "x")), ["conversations: no turn is from gpt, so there is nothing to learn"]),
    (
        conversation(("human", "x"), ("gpt", f"y {IMAGE}"), image="red.png"),
        ["conversations[1].value: the assistant says `<image>`: images stand in what the user says; move it"],
    ),
    ({"image": "red.png"}, ["conversations: missing: give turns"]),
    ({"conversations": "x"}, ["conversations: must be a list of turns (is 'x')"]),
    ({"conversations": ["x", {"from": "gpt", "value": "y"}]}, ["conversations[0]: must be an object `{from, value}` (is str)"]),
    (conversation(("human", "x"), ("gpt", "y"), image={"a": 1}), ["image: must be a path or a list of paths (is {'a': 1})"]),
]


@pytest.mark.parametrize(("row", "reasons"), BAD_LLAVA)
def test_bad_conversations_are_named(tmp_path, images, row, reasons):
    good = conversation(("human", "Hello"), ("gpt", "Hello!"))
    path = lines(tmp_path / "rows.jsonl", [good, row])
    with pytest.raises(DataError) as caught:
        llava(path, images)
    assert len(caught.value.reasons) == len(reasons)
    for said, reason in zip(caught.value.reasons, reasons, strict=True):
        assert said.startswith(f"{path}:2: {reason}")


def test_twenty_reasons_are_shown_and_all_are_counted(tmp_path, images):
    path = lines(tmp_path / "rows.jsonl", [{"image": "red.png"}] * 37)
    with pytest.raises(DataError) as caught:
        captions(path, images)
    assert caught.value.message == f"`{path}` has 37 faults in its rows, of which the first 20 are:"
    assert len(caught.value.reasons) == 20


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.json", '{"image": "x"}', "rows.json:1: file: must be a JSON list, `[` first: name JSON lines `.jsonl`"),
        ("rows.json", '[\n{"image": "red.png", "caption": "x"}\n{"image"', "rows.json:3: row: `,` or `]` must follow a row"),
        ("rows.json", '[\n{"image": "red.png", "caption": "x"},\n{"image"]', "rows.json:3: row: is not JSON"),
        ("rows.json", '[{"image": "red.png", "caption": "x"}]\n[]', "rows.json:2: file: goes on after the `]`"),
        ("rows.json", "[]", "rows.json` has no rows"),
        ("rows.jsonl", "\n\n", "rows.jsonl` has no rows"),
    ],
)
def test_files_that_are_not_what_they_say_are_refused(tmp_path, images, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        captions(tmp_path / name, images)
    assert message in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path, images):
    with pytest.raises(DataError, match=r"absent.jsonl` cannot be read \(FileNotFoundError"):
        captions(tmp_path / "absent.jsonl", images)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"image": "red.png", "caption": "x"}\n' * 50)[:-20])
    with pytest.raises(DataError, match=r"cut.jsonl.gz` cannot be read \(EOFError"):
        captions(tmp_path / "cut.jsonl.gz", images)
    (tmp_path / "latin.jsonl").write_bytes('{"image": "ü"}'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.jsonl` cannot be read \(UnicodeDecodeError"):
        captions(tmp_path / "latin.jsonl", images)


@pytest.mark.parametrize(
    ("name", "message"), [("absent.png", "is not a file"), ("../rows.jsonl", "leads out of the image folder")]
)
def test_bad_images_are_named_when_they_are_opened(tmp_path, images, name, message):
    path = lines(tmp_path / "rows.jsonl", [{"image": "red.png", "caption": "x"}, {"image": name, "caption": "x"}])
    dataset = captions(path, images)
    with pytest.raises(DataError) as caught:
        dataset[1].images[0]()
    assert str(caught.value).startswith(f"{path}:2: image: `{images / name}` {message}")
    same = lines(tmp_path / "llava.jsonl", [conversation(("human", IMAGE), ("gpt", "y"), image=name)])
    with pytest.raises(DataError) as caught:
        llava(same, images)[0].images[0]()
    assert str(caught.value).startswith(f"{same}:1: image: `{images / name}` {message}")


def test_datasets_travel_to_workers(tmp_path, images):
    path = lines(tmp_path / "rows.jsonl", [{"image": "red.png", "caption": "red"}])
    sample = pickle.loads(pickle.dumps(captions(path, images)))[0]
    assert pickle.loads(pickle.dumps(sample)).images[0]().getpixel((0, 0)) == (255, 0, 0)


def test_rows_that_share_a_line_are_told_apart(tmp_path):
    """`json.dump` writes a list on one line: there the number of the line says nothing, and would be the id of every row."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    good = {"image": "a.png", "caption": "A."}
    path = tmp_path / "rows.json"
    path.write_text("[" + ", ".join(json.dumps(row) for row in (good, good, good)) + ",\n" + json.dumps(good) + "]")
    rows = captions(path, tmp_path)
    assert [row.source.rpartition(":")[2] for row in rows] == ["1", "1[1]", "1[2]", "2"]
    assert len({row.id for row in rows}) == 4
    path.write_text(json.dumps([good, good | {"caption": 3}, [good]]))
    with pytest.raises(BadRowsError) as error:
        captions(path, tmp_path)
    assert [str(fault).rpartition(f"{path}:")[2] for fault in error.value.faults] == [
        "1[1]: caption: must be a text (is int): correct it, or drop the row",
        "1[2]: row: must be an object of fields (is list): correct it, or drop it",
    ]
