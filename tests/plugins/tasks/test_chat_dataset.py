"""Conversations as `messages`: every way in which the form is written, and every fault of a row by file, line and field."""

import json

import pytest
from PIL import Image

from vlmzoo_registry import DataError
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.chat import ChatDataset
from vlmzoo_tasks.config import ChatConfig


@pytest.fixture
def images(tmp_path):
    for name in ("red", "blue"):
        Image.new("RGB", (4, 3), name).save(tmp_path / f"{name}.png")
    return tmp_path


def chat(images, rows, name="rows.jsonl"):
    path = images / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) if name.endswith("l") else json.dumps(rows, indent=1))
    return ChatDataset(ChatConfig(path=path, images=images))


def row(*messages, **fields):
    return {"messages": [{"role": role, "content": content} for role, content in messages], **fields}


PIECES = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
GOOD = [
    row(("user", PIECES), ("assistant", [{"type": "text", "text": "Red."}]), images=["red.png"]),
    row(("system", "Be brief."), ("user", f"{IMAGE} or {IMAGE}?"), ("assistant", "Both."), images=["red.png", "blue.png"]),
    row(("user", f"{IMAGE}\nAnd this?"), ("assistant", "Blue."), image="blue.png", id="b"),
    row(("user", "Name a colour."), ("assistant", "Red."), ("user", "Another."), ("assistant", "Blue.")),
]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_messages_become_samples(images, name):
    data = chat(images, GOOD, name)
    assert len(data) == 4
    assert data[0].turns == (Turn("user", f"{IMAGE}What is this?"), Turn("assistant", "Red."))
    assert [turn.role for turn in data[1].turns] == ["system", "user", "assistant"]
    assert [image().getpixel((0, 0)) for image in data[1].images] == [(255, 0, 0), (0, 0, 255)]
    assert (data[2].id, len(data[2].images), len(data[3].images)) == ("b", 1, 0)
    assert len(data[3].turns) == 4
    if name == "rows.jsonl":
        assert [data[index].source for index in range(4)] == [f"{images}/rows.jsonl:{line}" for line in (1, 2, 3, 4)]


ANSWER = ("assistant", "x")
BAD = [
    ({"images": []}, ["messages: missing: give messages `{role, content}`, or drop the row"]),
    ({"messages": "x"}, ["messages: must be a list of messages (is 'x')"]),
    ({"messages": ["x", {"role": "assistant", "content": "y"}]}, ["messages[0]: must be an object `{role, content}` (is str)"]),
    (row(("human", "x"), ANSWER), ["messages[0].role: must be one of system, user, assistant (is 'human')"]),
    (
        row(("asistant", "x"), ANSWER),
        ["messages[0].role: must be one of system, user, assistant (is 'asistant'); did you mean"],
    ),
    (row(("user", "x")), ["messages: no message is from the assistant, so there is nothing to learn"]),
    (row(("user", 3), ANSWER), ["messages[0].content: must be a text, or pieces"]),
    (
        row(("user", None), ANSWER),
        ["messages[0].content: must be a text, or pieces `{type: text, text}` and `{type: image}` (is None)"],
    ),
    (
        row(("user", [{"type": "image_url", "image_url": {"url": "http://x"}}]), ANSWER),
        ["messages[0].content[0]: must be a text, or"],
    ),
    (row(("user", "x"), ("assistant", " "), ANSWER), ["messages[1].content: empty: fill it"]),
    (row(("user", PIECES), ANSWER), ["images: 0 images but 1 `<image>` in the conversation: make them equal"]),
    (row(("user", "x"), ANSWER, images=["red.png"]), ["images: 1 images but 0 `<image>`"]),
    (row(("user", IMAGE), ("assistant", IMAGE), images=["red.png"] * 2), ["messages[1].content: the assistant says `<image>`"]),
    (row(("user", IMAGE), ANSWER, images=[{"path": "red.png"}]), ["images: must be a path or a list of paths"]),
    (row(("user", IMAGE), ANSWER, images=["red.png"], image="red.png"), ["image: stands beside `images`: keep one of them"]),
    (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x", "tool_calls": []}]},
        ["messages[1].tool_calls: is not read, and nothing is dropped unsaid", "messages: no message is from the assistant"],
    ),
]


@pytest.mark.parametrize(("bad", "reasons"), BAD)
def test_bad_messages_are_named(images, bad, reasons):
    with pytest.raises(DataError) as caught:
        chat(images, [GOOD[0], bad, GOOD[1]])
    assert len(caught.value.reasons) == len(reasons), caught.value.reasons
    for said, reason in zip(caught.value.reasons, reasons, strict=True):
        assert said.startswith(f"{images}/rows.jsonl:2: {reason}")


def test_all_faults_are_named_at_once(images):
    with pytest.raises(DataError) as caught:
        chat(images, [bad for bad, _ in BAD])
    assert len(caught.value.reasons) == sum(len(reasons) for _, reasons in BAD)


def test_images_are_opened_under_their_folder(images):
    data = chat(images, [row(("user", IMAGE), ANSWER, images=["absent.png"])])
    with pytest.raises(DataError, match=r"rows.jsonl:1: images: .*absent.png` is not a file"):
        data[0].images[0]()
