"""Whatever stands in a file of rows or in an image: it is read, or refused by file, line and field; there is never a traceback.

Each property is tried on 200 files in the ordinary run, on 2,000 in the slow one.
"""

import gzip
import io
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmzoo.config import load_choice
from vlmzoo_registry import BadRowsError, DataError, Dataset
from vlmzoo_registry.images import ImageFile
from vlmzoo_tasks.config import (
    ArrowConfig,
    CaptionsConfig,
    ChatConfig,
    CocoCaptionsConfig,
    Flickr30kConfig,
    FolderConfig,
    LlavaConfig,
    SheetConfig,
    VqaConfig,
)

ORDINARY = settings(max_examples=200, suppress_health_check=list(HealthCheck))
SLOW = settings(ORDINARY, max_examples=2000)

LLAVA = {
    "id": "a",
    "image": "red.png",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Red."}],
}
CHAT = {
    "id": 3,
    "images": ["red.png"],
    "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "Red."},
    ],
}
COCO = {
    "images": [{"id": 1, "file_name": "red.png"}, {"id": 2, "file_name": "red.png"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "Red."}, {"id": 2, "image_id": 2, "caption": "Red."}],
}
QUESTIONS = {"questions": [{"question_id": 1, "image_id": 1, "question": "What?"}]}
ANSWERS = {"annotations": [{"question_id": 1, "image_id": 1, "multiple_choice_answer": "red"}]}

ROWS = {
    "captions": ({"image": "red.png", "caption": "Red."}, lambda path: CaptionsConfig(path=path, images=path.parent)),
    "llava": (LLAVA, lambda path: LlavaConfig(path=path, images=path.parent)),
    "chat": (CHAT, lambda path: ChatConfig(path=path, images=path.parent)),
    "sheet": (
        {"label": "red", "hex": "f00", "group": "g"},
        lambda path: SheetConfig(sheet=path.parent / "red.png", labels=path, columns=1, cell=8, exclude_groups=("h",)),
    ),
}
"""Formats of JSON lines: a good row, and the options for a file of them."""

TABLES = {
    "coco_captions": (COCO, lambda path: CocoCaptionsConfig(path=path, images=path.parent)),
    "vqa questions": (
        QUESTIONS,
        lambda path: VqaConfig(questions=path, annotations=path.parent / "answers", images=path.parent, file="{image_id}.png"),
    ),
    "vqa answers": (
        ANSWERS,
        lambda path: VqaConfig(
            questions=path.parent / "questions", annotations=path, images=path.parent, file="{image_id}.png"
        ),
    ),
}
"""Formats of one JSON object: a good one, and the options for it."""

DATASETS = {
    CaptionsConfig: "captions",
    LlavaConfig: "llava",
    ChatConfig: "chat",
    SheetConfig: "sheet",
    CocoCaptionsConfig: "coco_captions",
    VqaConfig: "vqa",
    Flickr30kConfig: "flickr30k",
    FolderConfig: "folder",
    ArrowConfig: "arrow",
}

WORDS = st.text(max_size=8) | st.sampled_from(
    ["", " ", "<image>", "\x00", "red.png", "../x", "x" * 5000, "\u2028", "\ud800", "user", "gpt"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([10**400, -1, 1e308]) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw, value):
    """A good value with one thing in it taken out, put in, or replaced by anything."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        way = draw(st.integers(0, 5))
        if way == 0:
            return {other: entry for other, entry in value.items() if other != key}
        if way == 1:
            return value | {draw(WORDS): draw(VALUES)}
        return value | {key: draw(changed(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(changed(value[place])), *value[place + draw(st.integers(0, 1)) :]]
    return draw(VALUES)


@st.composite
def damaged(draw, data):
    """Bytes with a few of them changed, put in, cut out, or without their end."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        way = draw(st.integers(0, 3))
        if way == 0:
            data = data[:start]
        elif way == 1:
            data = data[:start] + data[start + draw(st.integers(1, 20)) :]
        else:
            data = data[:start] + draw(st.binary(max_size=8)) + data[start + (way == 2) :]
    return data


def open_data(config) -> Dataset:
    choice = load_choice("dataset", {"name": f"tasks/{DATASETS[type(config)]}", **config.model_dump(mode="json")})
    return choice.make(Dataset)


def attempt(make):
    """What is made and None, or None and why it is refused; any other error ends the test."""
    try:
        return make(), None
    except DataError as error:
        return None, error


def check_opened(image, place: str) -> None:
    """The image is in RGB, or refused with a message that begins with its place."""
    opened, error = attempt(image)
    assert opened.mode == "RGB" if error is None else error.message.startswith(place)


def files_in(folder: Path) -> str:
    """A pattern of the files below the folder."""
    return "|".join(re.escape(str(file)) for file in sorted(folder.rglob("*"), reverse=True))


def read(config, folder: Path) -> DataError | None:
    """Read a whole data set. What is refused must say where: each reason by file, place and field, or the message by file."""
    rows, refused = attempt(lambda: open_data(config))
    if refused is not None:
        files = files_in(folder)
        assert re.search(rf"({files}|{re.escape(str(folder))})", refused.message), refused
        faults = [str(fault) for fault in refused.faults] if isinstance(refused, BadRowsError) else refused.reasons
        for fault in faults:
            if not re.match(r"`(images|annotations|questions)` must be a list|no label has|has ", fault):
                assert re.match(rf"({files})(:(\d+|\w+\[\d+\]))?: [^:]+: .", fault, re.DOTALL), fault
        if not isinstance(refused, BadRowsError):
            return refused
        rows = refused.rest
    for index in range(len(rows)):
        sample, error = attempt(lambda at=index: rows[at])
        if error is not None:  # pictures in a row of Arrow
            assert re.match(rf"({files_in(folder)}):\d+: images: .", error.message)
            continue
        assert sample.id
        assert sample.source
        assert "".join((sample.id, *(turn.text for turn in sample.turns))).encode()  # no tokenizer takes half a character
        for image in sample.images:
            check_opened(image, f"{sample.source}: ")
    return refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (8, 64), "red").save(folder / "red.png")
    Image.new("RGB", (8, 64), "red").save(folder / "1.png")
    (folder / "answers").write_text(json.dumps(ANSWERS))
    (folder / "questions").write_text(json.dumps(QUESTIONS))
    return folder


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"image": "red.png", "caption": "\\ud800 red"}', "half of a surrogate pair"),
        ('{"image": "red.png", "caption": "red", "id": ' + "1" * 5000 + "}", "Exceeds the limit"),
        ('{"image": "red.png", "caption": ' + "[" * 100_000, "recursion"),
        ('{"image": "red.png", "caption": "red" "id"}', "Expecting ',' delimiter"),
    ],
)
def test_rows_that_no_decoder_takes_are_named_by_their_line(folder, name, row, reason):
    good = json.dumps(ROWS["captions"][0])
    path = folder / name
    path.write_text("\n".join([good, row, good]) if name.endswith("l") else f"[{good},\n{row},\n{good}]")
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}:2: row: is not JSON \(.*{re.escape(reason)}"):
        open_data(CaptionsConfig(path=path, images=folder))


def both(test):
    """The test with 200 examples, and a slow one with 2,000."""
    ordinary, slow = test("ordinary"), test("slow")
    return ORDINARY(ordinary), pytest.mark.slow(SLOW(slow))


def _rows_with_a_changed_one(tier):
    @pytest.mark.parametrize("name", ROWS)
    @given(data=st.data())
    def check(folder, name, data):
        good, config = ROWS[name]
        path = folder / f"{tier}-rows.jsonl"
        bad = data.draw(changed(good))
        path.write_text("".join(json.dumps(row) + "\n" for row in (good, bad, good)))
        error = read(config(path), folder)
        if error is None:
            assert isinstance(bad, dict)
        else:
            for fault in error.faults if isinstance(error, BadRowsError) else ():
                assert fault.place == f"{path}:2"
            assert f"{path}:2: " in str(error) or name == "sheet" or not error.reasons

    return check


def _damaged_files_of_rows(tier):
    @given(data=st.data())
    def check(folder, data):
        name = data.draw(st.sampled_from([*ROWS, *TABLES, "flickr30k"]))
        ending = data.draw(st.sampled_from([".json", ".jsonl", ".json.gz"]))
        if name == "flickr30k":
            text, config = (
                "red.png#0\tRed.\nred.png#1\tAlso red.\n",
                lambda path: Flickr30kConfig(path=path, images=path.parent),
            )
        elif name in TABLES:
            good, config = TABLES[name]
            text = json.dumps(good)
        else:
            good, config = ROWS[name]
            text = json.dumps([good, good], indent=1) if ".json" in ending.split(".jsonl") else f"{json.dumps(good)}\n" * 2
        whole = text.encode()
        if ending.endswith(".gz") and data.draw(st.booleans()):
            content = data.draw(damaged(gzip.compress(whole, mtime=0)))
        else:
            content = data.draw(damaged(whole))
            content = gzip.compress(content, mtime=0) if ending.endswith(".gz") else content
        path = folder / f"{tier}-file{ending}"
        path.write_bytes(content)
        read(config(path), folder)

    return check


def _tables_with_a_changed_entry(tier):
    @given(data=st.data())
    def check(folder, data):
        name = data.draw(st.sampled_from(sorted(TABLES)))
        good, config = TABLES[name]
        path = folder / f"{tier}-table.json"
        path.write_text(json.dumps(data.draw(changed(good))))
        read(config(path), folder)

    return check


PICTURE = Image.effect_noise((24, 16), 60).convert("RGB")
PICTURES = {}
for _format in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
    _buffer = io.BytesIO()
    PICTURE.save(_buffer, _format)
    PICTURES[_format] = _buffer.getvalue()


def _damaged_images(tier):
    @given(data=st.data())
    def check(folder, data):
        kind = data.draw(st.sampled_from(sorted(PICTURES)))
        path = folder / f"{tier}-picture.{kind.lower()}"
        path.write_bytes(data.draw(damaged(PICTURES[kind])))
        where = f"{folder}/rows.jsonl:7: image"
        check_opened(ImageFile(path, folder, where), f"{where}: `{path}` ")

    return check


def _changed_rows_of_arrow(tier):
    @given(data=st.data())
    def check(folder, data):
        words = st.none() | st.sampled_from(["<image>", "What?", "", " ", "<image><image>"])
        turn = st.none() | st.fixed_dictionaries({"role": words | st.sampled_from(["user", "assistant"]), "content": words})
        pictures = st.fixed_dictionaries(
            {
                "bytes": st.none() | st.sampled_from([PICTURES["PNG"], b"", PICTURES["PNG"][:40]]),
                "path": st.none() | st.sampled_from(["red.png", "../x", "\x00", ""]),
            }
        )
        row = st.fixed_dictionaries(
            {
                "messages": st.none() | st.lists(turn, max_size=3),
                "images": st.none() | st.lists(st.none() | pictures, max_size=2),
            }
        )
        schema = pyarrow.schema(
            {
                "messages": pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "content": pyarrow.string()})),
                "images": pyarrow.list_(pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})),
            }
        )
        turns = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "Red."}]
        good = {"messages": turns, "images": [data.draw(pictures)]}
        table = pyarrow.Table.from_pylist([good, *data.draw(st.lists(row, max_size=2))], schema=schema)
        inside = folder / f"{tier}-arrow"
        inside.mkdir(exist_ok=True)
        path = inside / data.draw(st.sampled_from(["rows.parquet", "rows.arrow"]))
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        if not data.draw(st.integers(0, 3)):
            whole = path.read_bytes()
            path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        images = data.draw(st.sampled_from([None, folder]))
        read(ArrowConfig(path=path, images=images), folder)

    return check


def _damaged_folders(tier):
    @given(data=st.data())
    def check(folder, data):
        inside = folder / f"{tier}-folder"
        inside.mkdir(exist_ok=True)
        for file in inside.iterdir():
            file.unlink()
        names = st.sampled_from(["a.txt", "a.png", "a.jpg", "b.txt", "b.png", "c", ".hidden.png"])
        for name in data.draw(st.lists(names, unique=True)):
            content = data.draw(st.binary(max_size=4) | st.sampled_from([b"Red.", b"<image>", b"\xff\xfe", PICTURES["PNG"]]))
            (inside / name).write_bytes(content)
        read(FolderConfig(path=inside), folder)

    return check


test_changed_rows, test_changed_rows_slow = both(_rows_with_a_changed_one)
test_damaged_files, test_damaged_files_slow = both(_damaged_files_of_rows)
test_changed_tables, test_changed_tables_slow = both(_tables_with_a_changed_entry)
test_damaged_images, test_damaged_images_slow = both(_damaged_images)
test_changed_arrow_rows, test_changed_arrow_rows_slow = both(_changed_rows_of_arrow)
test_damaged_folders, test_damaged_folders_slow = both(_damaged_folders)
