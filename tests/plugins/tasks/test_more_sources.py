"""Questions, folders, Parquet and Arrow: what good ones give, and every fault of bad ones by its place."""

import io
import json
import pickle
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from pydantic import ValidationError

from vlmzoo_registry import BadRowsError, DataError
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.arrow import ArrowDataset
from vlmzoo_tasks.config import ArrowConfig, FolderConfig, VqaConfig
from vlmzoo_tasks.folder import FolderDataset
from vlmzoo_tasks.vqa import VqaDataset

COLOURS = ("red", "blue")


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for number, colour in enumerate(COLOURS, start=1):
        (tmp_path / f"COCO_train2014_{number:012d}.jpg").write_bytes(png(colour))
        (tmp_path / f"{colour}.png").write_bytes(png(colour))
    return tmp_path


def colours(sample):
    return [image().getpixel((0, 0)) for image in sample.images]


# Questions


def vqa(folder, questions, annotations, **options):
    (folder / "q.json").write_text(json.dumps({"questions": questions}))
    (folder / "a.json").write_text(json.dumps({"annotations": annotations}))
    return VqaDataset(VqaConfig(questions=folder / "q.json", annotations=folder / "a.json", images=folder, **options))


def test_questions_and_answers_meet_by_their_ids(folder):
    questions = [
        {"question_id": 11, "image_id": 2, "question": "Is it red? "},
        {"question_id": 10, "image_id": 1, "question": "Which colour?"},
    ]
    answers = [
        {"question_id": 10, "answers": [{"answer": "blue"}, {"answer": "red"}, {"answer": "red"}, {"answer": "blue"}]},
        {"question_id": 11, "multiple_choice_answer": "no", "answers": [{"answer": "yes"}]},
        {"question_id": 12, "multiple_choice_answer": "of another question"},
    ]
    data = vqa(folder, questions, answers)
    assert len(data) == 2
    assert data[0].turns == (Turn("user", f"{IMAGE}\nIs it red?"), Turn("assistant", "no"))
    assert data[1].turns == (Turn("user", f"{IMAGE}\nWhich colour?"), Turn("assistant", "blue"))  # as many: the first counts
    assert (data[0].id, data[0].source) == ("11", f"{folder}/q.json:questions[0]")
    assert [colours(data[index]) for index in (0, 1)] == [[(0, 0, 255)], [(255, 0, 0)]]
    assert data[0].images != data[1].images
    assert pickle.loads(pickle.dumps(data))[1] == data[1]


def test_every_bad_question_and_answer_is_named(folder):
    good = {"question_id": 1, "image_id": 1, "question": "What?"}
    questions = [
        good,
        "x",
        good | {"question_id": "2"},
        good | {"question_id": 3, "image_id": -1},
        good,
        good | {"question_id": 5},
        good | {"question_id": 6, "question": f"{IMAGE}?"},
        good | {"question_id": 7},
    ]
    answers = [
        {"question_id": 1, "multiple_choice_answer": "a"},
        {"question_id": 1, "multiple_choice_answer": "b"},
        *({"question_id": number, "multiple_choice_answer": "a"} for number in (3, 6)),
        {"question_id": 7, "answers": []},
    ]
    with pytest.raises(BadRowsError) as caught:
        vqa(folder, questions, answers)
    said = [str(fault).replace(str(folder), "") for fault in caught.value.faults]
    for fault, wanted in zip(
        said,
        [
            "/a.json:annotations[1]: question_id: 1 is answered earlier too",
            "/a.json:annotations[4]: answers: must be a list of objects",
            "/q.json:questions[1]: row: must be an object of fields (is str)",
            "/q.json:questions[2]: question_id: must be a whole number (is '2')",
            "/q.json:questions[3]: image_id: must be a whole number from 0 on (is -1)",
            "/q.json:questions[4]: question_id: 1 is the id of an earlier question too",
            f"/q.json:questions[5]: question_id: 5 has no answer in `{folder}/a.json`".replace(str(folder), ""),
            "/q.json:questions[6]: question: contains `<image>`",
        ],
        strict=True,
    ):
        assert fault.startswith(wanted)
    assert [sample.id for sample in (caught.value.rest[0],)] == ["1"]
    assert len(caught.value.rest) == 1


@pytest.mark.parametrize(
    "file", ["x.jpg", "{image_id}{image_id}", "{image_id!r}", "{other}", "{image_id:>9}", "{0}", "{image_id.real}"]
)
def test_the_name_of_an_image_names_it_once(tmp_path, file):
    with pytest.raises(ValidationError, match="must name the image once"):
        VqaConfig(questions=tmp_path, annotations=tmp_path, images=tmp_path, file=file)


# Folders


def test_a_folder_gives_images_with_their_texts(folder):
    (folder / "more").mkdir()
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x.txt").write_text("hidden")
    (folder / "more" / "two.words.PNG").write_bytes(png("blue"))
    (folder / "more" / "two.words.txt").write_text("all blue\n")
    (folder / "notes.csv").write_text("no text of an image")
    for name in folder.glob("COCO*"):
        name.unlink()
    for colour in COLOURS:
        (folder / f"{colour}.txt").write_text(f"all {colour} \n")
    data = FolderDataset(FolderConfig(path=folder, prompts=("Describe it.",)))
    assert [data[index].id for index in range(len(data))] == ["blue.png", "more/two.words.PNG", "red.png"]
    assert data[2].turns == (Turn("user", f"{IMAGE}Describe it."), Turn("assistant", "all red"))
    assert data[1].source == f"{folder}/more/two.words.PNG"
    assert colours(data[1]) == [(0, 0, 255)]


def test_what_has_no_partner_in_a_folder_is_named(folder):
    (folder / "red.jpg").write_bytes(png("red"))
    (folder / "red.txt").write_text("Red.")
    (folder / "blue.txt").write_bytes(b"\xff\xfe")
    (folder / "alone.txt").write_text("Words.")
    with pytest.raises(BadRowsError) as caught:
        FolderDataset(FolderConfig(path=folder))
    said = [str(fault) for fault in caught.value.faults]
    assert said[0].startswith(f"{folder}/COCO_train2014_000000000001.jpg: text: `COCO_train2014_000000000001.txt` is missing")
    assert said[2].startswith(f"{folder}/alone.txt: image: there is no image of this name")
    assert said[3].startswith(f"{folder}/blue.txt: text: cannot be read (UnicodeDecodeError")
    assert said[4].startswith(f"{folder}/red.txt: image: red.jpg, red.png have the same name")
    assert len(said) == 5
    with pytest.raises(DataError, match="is not a folder"):
        FolderDataset(FolderConfig(path=folder / "none"))


# Parquet and Arrow


def write(path, table, rows_in_a_group=2):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=rows_in_a_group)
        return path
    make = pyarrow.ipc.new_file if path.stem.startswith("file") else pyarrow.ipc.new_stream
    with pyarrow.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_in_a_group)
    return path


MESSAGES = {
    "images": [
        [{"bytes": png("red"), "path": None}],
        [{"bytes": png("blue"), "path": "x.png"}, {"bytes": None, "path": "red.png"}],
        None,
    ],
    "messages": [
        [
            {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
        ],
        [
            {"role": "user", "content": [{"type": "text", "text": f"{IMAGE}{IMAGE} Same?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        ],
        [
            {"role": "user", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
        ],
    ],
    "id": ["a", "b", "c"],
}


@pytest.mark.parametrize("name", ["rows.parquet", "stream.arrow", "file.arrow"])
def test_rows_of_parquet_and_arrow_are_conversations(folder, name):
    path = write(folder / name, pyarrow.table(MESSAGES))
    data = ArrowDataset(ArrowConfig(path=path, images=folder))
    assert data[2].turns == (Turn("user", "Hello."), Turn("assistant", "Hi."))  # any order
    assert data[0].turns == (Turn("user", f"{IMAGE}What?"), Turn("assistant", "Red."))
    assert [colours(data[index]) for index in range(3)] == [[(255, 0, 0)], [(0, 0, 255), (255, 0, 0)], []]
    assert (data[1].id, data[1].source) == ("0:b", f"{path}:1")
    assert data[0] == data[0]
    again = pickle.loads(pickle.dumps(data))
    assert again[1] == data[1]
    assert len(pickle.dumps(data)) < 4000  # rows stay in the file


def test_a_folder_of_files_is_read_in_the_order_of_their_names(folder):
    table = pyarrow.table(MESSAGES)
    (folder / "shards").mkdir()
    for number in (1, 0):
        write(folder / "shards" / f"part-{number}.parquet", table.slice(number, 2))
    data = ArrowDataset(ArrowConfig(path=folder / "shards", images=folder))
    assert [data[index].id for index in range(len(data))] == ["0:a", "0:b", "1:b", "1:c"]
    write(folder / "shards" / "part-0.arrow", table)
    with pytest.raises(DataError, match="maybe of the same rows"):
        ArrowDataset(ArrowConfig(path=folder / "shards"))


def test_other_columns_and_forms(folder):
    cauldron = pyarrow.table(
        {"images": [[png("red"), png("blue")]], "texts": [[{"user": "Same?", "assistant": "No.", "source": "x"}]]}
    )
    data = ArrowDataset(ArrowConfig(path=write(folder / "c.parquet", cauldron)))
    assert data[0].turns == (Turn("user", f"{IMAGE}{IMAGE}\nSame?"), Turn("assistant", "No."))
    assert colours(data[0]) == [(255, 0, 0), (0, 0, 255)]
    captions = pyarrow.table({"jpg": [png("red")], "txt": ["All red. "]})
    config = {"form": "caption", "column": "txt", "image_column": "jpg", "prompts": ("Describe it.",)}
    data = ArrowDataset(ArrowConfig(path=write(folder / "d.parquet", captions), **config))
    assert data[0].turns == (Turn("user", f"{IMAGE}Describe it."), Turn("assistant", "All red."))
    llava = pyarrow.table({"conversations": [[{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hi."}]]})
    data = ArrowDataset(ArrowConfig(path=write(folder / "e.parquet", llava)))
    assert data[0].turns == (Turn("user", "Hello."), Turn("assistant", "Hi."))


def test_bad_rows_of_arrow_are_named_by_file_row_and_column(folder):
    good = {"role": "user", "content": "What?"}
    answer = {"role": "assistant", "content": "x"}
    table = pyarrow.table(
        {
            "image": [None, png("red"), None, None, None],
            "messages": [[good, answer], [good, answer], None, [{"role": "bot", "content": "x"}, answer], [good]],
        }
    )
    path = write(folder / "rows.parquet", table)
    with pytest.raises(BadRowsError) as caught:
        ArrowDataset(ArrowConfig(path=path))
    assert [str(fault).split(" (")[0] for fault in caught.value.faults] == [
        f"{path}:1: image: 1 images but 0 `<image>` in the conversation: make them equal, or drop the row",
        f"{path}:2: messages: missing: give messages `{{role, content}}`, or drop the row",
        f"{path}:3: messages[0].role: must be one of system, user, assistant",
        f"{path}:4: messages: no message is from the assistant, so there is nothing to learn: add its answer, or drop the row",
    ]
    assert len(caught.value.rest) == 1


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ({"x": [1]}, {}, "has none of the columns messages, conversations, texts, caption (its columns are x)"),
        ({"messages": [None], "caption": ["x"]}, {}, "has messages and caption"),
        ({"caption": ["x"], "image": [b""], "images": [b""]}, {}, "has `images` and `image`: say with `image_column`"),
        ({"caption": ["x"]}, {"image_column": "jpg"}, "has no column `jpg`"),
    ],
)
def test_files_whose_columns_are_not_clear_are_refused(folder, columns, options, reason):
    path = write(folder / "rows.parquet", pyarrow.table(columns))
    with pytest.raises(DataError) as caught:
        ArrowDataset(ArrowConfig(path=path, **options))
    assert reason in str(caught.value)
    assert str(path) in caught.value.message


def test_images_of_arrow_are_refused_by_their_place(folder):
    images = [[{"bytes": b"x", "path": None}], [{"bytes": None, "path": "../red.png"}], [{"bytes": None, "path": None}]]
    table = pyarrow.table({"images": images, "caption": ["a", "b", "c"]})
    path = write(folder / "rows.parquet", table)
    data = ArrowDataset(ArrowConfig(path=path, images=folder))
    with pytest.raises(DataError, match=r"rows\.parquet:0: images: the image is not an image of a known format"):
        data[0].images[0]()
    with pytest.raises(DataError, match=r"rows\.parquet:1: images: .* leads out of the image folder"):
        data[1].images[0]()
    with pytest.raises(DataError, match=r"rows\.parquet:2: images: an image has neither bytes nor a path"):
        data[2]
    with pytest.raises(DataError, match="name the folder that it starts from as `images`"):
        ArrowDataset(ArrowConfig(path=path))[1]


def test_pictures_stay_in_the_file_while_rows_are_looked_at(folder, monkeypatch):
    path = write(folder / "rows.parquet", pyarrow.table(MESSAGES))
    read = Counter()
    real = pyarrow.parquet.ParquetFile.iter_batches

    def spy(self, size, columns):
        read.update(columns)
        return real(self, size, columns=columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", spy)
    ArrowDataset(ArrowConfig(path=path, images=folder))
    assert "images.list.element.path" in read
    assert not [column for column in read if column.endswith("bytes")]
