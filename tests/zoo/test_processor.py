"""From messages and images to a batch: the same ids as in training, and every row that cannot be used is named."""

import io
from inspect import unwrap
from typing import Any

import pytest
import torch
from PIL import Image
from small_models import picture, section

import vlmzoo
from vlmzoo.data import Collator
from vlmzoo.processor import VLMProcessor
from vlmzoo_registry import DataError
from vlmzoo_registry.tasks import Rendered, Sample, Span, Template, Turn


class Talk(Template):
    """A template with roles, so that conversations of several turns can be made."""

    def render(self, turns: Any, *, prompt: bool) -> Rendered:
        text, spans = "", []
        for turn in turns:
            if turn.role == "system" and text:
                raise DataError("template `talk` takes a system turn first")
            text += f"{turn.role}:"
            if turn.role == "assistant":
                spans.append(Span(len(text), len(text) + len(turn.text)))
            text += turn.text + "\n"
        if prompt:
            text += "assistant:"
        images = tuple(index for index in range(len(text)) if text.startswith("<image>", index))
        return Rendered(text=text, images=images, spans=tuple(spans), end=not prompt)


@pytest.fixture(scope="module")
def plain() -> VLMProcessor:
    return vlmzoo.build(section()).processor


@pytest.fixture(scope="module")
def talk(plain: VLMProcessor) -> VLMProcessor:
    return VLMProcessor(tokenizer=plain.tokenizer, images=plain.images, template=Talk(), image_token=plain.image_token)


def texts(processor: VLMProcessor, batch: dict[str, torch.Tensor]) -> list[str]:
    """What stands in each row, its slots as one `<image>`, without padding."""
    rows = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        text = processor.tokenizer.decode(ids[mask.bool()], clean_up_tokenization_spaces=False)
        rows.append(text.replace("<image>" * processor.image_token.slots, "<image>"))
    return rows


# ---- what it makes ---------------------------------------------------------------------------------------------------------


def test_a_text_with_images_before_it_or_where_they_are_marked(plain: VLMProcessor) -> None:
    one, two = picture(1), picture(2)
    assert texts(plain, plain(text="what?", images=one)) == ["<image>what?\n"]
    assert texts(plain, plain(text="this <image> or this <image>?", images=[one, two])) == ["this <image> or this <image>?\n"]
    assert texts(plain, plain(text=["a", "b"], images=[one, two])) == ["<image>a\n", "<image>b\n"]
    assert texts(plain, plain(text=["a", "b"], images=[[], [one]])) == ["a\n", "<image>b\n"]
    assert texts(plain, plain(text="no image")) == ["no image\n"]
    assert "pixel_values" not in plain(text="no image")


def test_rows_are_padded_on_the_side_that_is_asked_for(plain: VLMProcessor) -> None:
    left = plain(text=["a", "longer"])
    assert left["attention_mask"].tolist() == [[0, 0, 0, 0, 0, 1, 1], [1] * 7]
    right = plain(text=["a", "longer"], padding_side="right")
    assert right["attention_mask"].tolist() == [[1, 1, 0, 0, 0, 0, 0], [1] * 7]
    assert texts(plain, left) == texts(plain, right)


def test_each_row_has_its_own_images_in_order(plain: VLMProcessor) -> None:
    shown = [picture(number) for number in range(3)]
    batch = plain(text=["<image><image>", "<image>"], images=[shown[:2], shown[2:]])
    assert batch["image_mask"].tolist() == [[True, True], [True, False]]
    for pixels, image in zip(batch["pixel_values"][batch["image_mask"]], shown, strict=True):
        assert torch.equal(pixels, plain.images.transform(image))
    assert not batch["pixel_values"][1, 1].any()


def test_messages_of_both_forms_are_the_same(talk: VLMProcessor) -> None:
    written = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "<image>what is it?"},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "sure?"},
    ]
    pieces = [dict(message) for message in written]
    pieces[1]["content"] = [{"type": "image"}, {"type": "text", "text": "what is "}, {"type": "text", "text": "it?"}]
    one, other = talk(written, images=picture(1)), talk(pieces, images=picture(1))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert texts(talk, one) == ["system:be brief\nuser:<image>what is it?\nassistant:a cat\nuser:sure?\nassistant:"]
    assert texts(talk, talk([written[:2], written], images=[picture(1), picture(2)]))[1] == texts(talk, one)[0]


@pytest.mark.parametrize("words", ["a cat", "ümläut 😀", "  spaces  "])
def test_generation_starts_from_the_ids_that_training_saw(words: str, talk: VLMProcessor) -> None:
    """Up to the first supervised token."""
    from vlmzoo_registry.tasks import Objective

    class Instruct(Objective):
        def render(self, sample: Sample, template: Template) -> Rendered:
            return template.render(sample.turns, prompt=False)

    collate = Collator(
        objective=Instruct(),
        template=talk.template,
        tokenizer=talk.tokenizer,
        image_token=talk.image_token,
        images=talk.images,
        max_length=1000,
    )
    turns = (Turn("user", "<image>what?"), Turn("assistant", words))
    trained = collate([Sample("0", turns, (lambda: picture(1),), "row:0")])
    asked = talk([{"role": "user", "content": "<image>what?"}], images=picture(1))
    first = int((trained["labels"][0] != -100).nonzero()[0])
    assert trained["input_ids"][0, :first].tolist() == asked["input_ids"][0].tolist()
    assert torch.equal(trained["pixel_values"], asked["pixel_values"])


def test_what_was_generated_is_read_behind_the_prompt(plain: VLMProcessor) -> None:
    ids = plain.tokenizer(["ask answer", "ask no"], padding=True, return_tensors="pt").input_ids
    assert plain.decode(ids, prompt_length=4) == ["answer", "no"]


# ---- what it refuses -------------------------------------------------------------------------------------------------------


def refusal(processor: VLMProcessor, *args: Any, **kwargs: Any) -> str:
    """What is said, also to callers whose arguments the type checker of this suite would refuse first."""
    with pytest.raises(DataError) as refused:
        unwrap(VLMProcessor.__call__)(processor, *args, **kwargs)
    return str(refused.value)


def test_markers_and_images_that_do_not_match(plain: VLMProcessor) -> None:
    one = picture(1)
    assert refusal(plain, text=["<image>a", "<image><image>b"], images=[[one], [one]]) == (
        "row 1: 2 `<image>` in the text, but 1 images: give one for each"
    )
    assert refusal(plain, text="<image>a") == "row 0: 1 `<image>` in the text, but 0 images: give one for each"
    assert refusal(plain, text=["a", "b", "c"], images=[one, one]) == (
        "2 lists of images for 3 rows: give one for each row, empty where it has none"
    )


def test_text_that_forges_a_control_token(plain: VLMProcessor) -> None:
    assert refusal(plain, text=["a", "b<eos>c"]) == (
        "row 1: text of the data is a special token of the tokenizer:\n  - row 1: turn 0 (user) contains `<eos>`: take it out, "
        "or drop the row"
    )


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("hello", "row 0: a message has the keys `role` and `content`, not a str"),
        ({"role": "user"}, "row 0: a message has the keys `role` and `content`, not ['role']"),
        (
            {"role": "user", "content": "a", "name": "b"},
            "row 0: a message has the keys `role` and `content`, not ['content', 'name', 'role']",
        ),
        ({"role": "bot", "content": "a"}, "row 0: `role` (='bot') must be system, user or assistant"),
        ({"role": "user", "content": None}, "row 0: `content` must be a text or a list of pieces, not a NoneType"),
        (
            {"role": "user", "content": [{"type": "image", "url": "http://a"}]},
            "row 0: a piece of content is {'type': 'text', 'text': ...} or {'type': 'image'}, with the image itself in "
            "`images=` (is {'type': 'image', 'url': 'http://a'})",
        ),
        (
            {"role": "user", "content": ["a"]},
            "row 0: a piece of content is {'type': 'text', 'text': ...} or {'type': 'image'}, with the image itself in "
            "`images=` (is 'a')",
        ),
    ],
)
def test_messages_that_are_not_understood(message: Any, said: str, talk: VLMProcessor) -> None:
    assert refusal(talk, [[message]]) == said


def test_a_template_that_refuses_names_the_row(talk: VLMProcessor) -> None:
    good, late = {"role": "user", "content": "a"}, {"role": "system", "content": "b"}
    assert refusal(talk, [[good], [good, late]]) == "row 1: template `talk` takes a system turn first"


def test_images_that_cannot_be_read(plain: VLMProcessor) -> None:
    stream = io.BytesIO()
    picture(1).save(stream, "PNG")
    cut = Image.open(io.BytesIO(stream.getvalue()[:-400]))
    assert refusal(plain, text=["a", "b"], images=[[picture(1)], [cut]]).startswith("row 1, image 0 cannot be read: ")
    assert refusal(plain, text="a", images=Image.new("F", (4, 4))) == (
        "row 0, image 0 cannot be read: pixels of mode F have no known scale: save it with 8 bits per channel"
    )
    assert refusal(plain, text=["a"], images=[["cat.png"]]) == (
        "row 0: an image must be a `PIL.Image.Image` (is a str): open it with Pillow"
    )
    assert refusal(plain, text=["a"], images=["cat.png"]) == (
        "row 0: an image must be a `PIL.Image.Image` (is a str): open it with Pillow"
    )


def test_no_row_at_all(plain: VLMProcessor) -> None:
    for empty in ({"text": []}, {"messages": []}):
        assert refusal(plain, **empty) == "there is no row: give at least one conversation or text"
    assert refusal(plain, text="") == "row 0: the prompt has no token to start from: give it an image or some words"


def test_arguments_that_exclude_each_other(plain: VLMProcessor) -> None:
    asked = {"messages": [{"role": "user", "content": "a"}]}
    for wrong, said in (
        ({}, "give either `messages` or `text`"),
        ({**asked, "text": "a"}, "give either `messages` or `text`"),
        ({**asked, "return_tensors": "np"}, r"`return_tensors` \(='np'\) must be 'pt'"),
        ({**asked, "padding_side": "Left"}, r"`padding_side` \(='Left'\) must be 'left' or 'right'"),
    ):
        with pytest.raises(ValueError, match=said):
            unwrap(VLMProcessor.__call__)(plain, **wrong)
