"""Batches: padded, never cut, with the images where their rows have them."""

from functools import partial

import pytest
import torch
from PIL import Image

from vlmzoo.data import Collator, ImageReader, pad_rows
from vlmzoo.data.encode import IGNORE
from vlmzoo_registry import DataError, FeatureShape, LayoutContext, NoOptions
from vlmzoo_registry.tasks import IMAGE, Objective, Rendered, Sample, Span, Template, Turn, marker_positions
from vlmzoo_registry.vision import ImageTransform
from vlmzoo_registry.whole import Whole


class Plain(Template):
    """The smallest template, written here so that the zoo is tested without a plugin."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def render(self, turns, *, prompt):
        if turns[0].role == "system":
            raise DataError("this template has no place for a system's turn")
        asked = turns[0].text
        answer = "" if prompt else turns[1].text
        spans = (Span(len(asked), len(asked + answer), self.weight),) if answer else ()
        return Rendered(asked + answer, marker_positions(asked + answer), spans, end=not prompt)


class Caption(Objective):
    def render(self, sample, template):
        return template.render(sample.turns, prompt=False)


def sample(answer: str, *colours: str, asked: str | None = None) -> Sample:
    images = tuple(partial(Image.new, "RGB", (9, 5), colour) for colour in colours)
    turns = (Turn("user", IMAGE * len(colours) if asked is None else asked), Turn("assistant", answer))
    return Sample(id=answer, turns=turns, images=images, source=f"rows.jsonl:{len(answer)}")


@pytest.fixture
def collator(tokenizer, image_token) -> Collator:
    transform = ImageTransform(height=4, width=6, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    layout = Whole(NoOptions(), LayoutContext((4, 6), lambda size: FeatureShape(width=8, count=3, grid=None), width=8))
    return Collator(
        objective=Caption(),
        template=Plain(),
        tokenizer=tokenizer,
        image_token=image_token,
        images=ImageReader(transform, layout, layout.text),
        max_length=40,
    )


def test_batch_is_its_rows_padded_on_the_right(collator):
    samples = [sample("a red car", "red"), sample("two cats on a sofa and a dog", "blue", "white")]
    batch = collator(samples)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "pixel_values", "image_mask"}
    for number, one in enumerate(samples):
        row = collator.encode(one)
        length = len(row.input_ids)
        assert batch["input_ids"][number, :length].tolist() == row.input_ids.tolist()
        assert batch["labels"][number, :length].tolist() == row.labels.tolist()
        assert (batch["labels"][number, length:] == IGNORE).all()
        assert batch["attention_mask"][number].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
    assert batch["pixel_values"].shape == (2, 2, 3, 4, 6)
    assert batch["image_mask"].tolist() == [[True, False], [True, True]]
    assert batch["pixel_values"][0, 0, :, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert batch["pixel_values"][0, 1].abs().sum() == 0
    assert batch["pixel_values"][1, 0, :, 0, 0].tolist() == [0.0, 0.0, 1.0]


def test_prompts_are_padded_on_the_left_and_have_the_ids_of_training(collator):
    samples = [sample("a red car", "red"), sample("a dog", "red", asked=f"{IMAGE}what is in the picture?\n")]
    prompts, batch = collator.prompts(samples), collator(samples)
    assert "labels" not in prompts
    for number in range(2):
        prompt = prompts["input_ids"][number][prompts["attention_mask"][number].bool()]
        assert prompts["attention_mask"][number].tolist() == sorted(prompts["attention_mask"][number].tolist())
        first = int((batch["labels"][number] != IGNORE).nonzero()[0])
        assert prompt.tolist() == batch["input_ids"][number, :first].tolist()
    assert torch.equal(prompts["pixel_values"], batch["pixel_values"])


def test_rows_without_images_make_no_pixels(collator):
    batch = collator([sample("a dog", asked="what is it?\n")])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_weights_are_there_only_where_a_span_has_one(collator):
    collator.template = Plain(weight=0.25)
    batch = collator([sample("a red car", "red"), sample("a dog", "red")])
    kept = batch["labels"] != IGNORE
    assert set(batch["weights"][kept].tolist()) == {0.25, 1.0}  # the end token counts in full
    assert batch["weights"][~kept].unique().tolist() == [1.0]


def test_long_row_is_refused_never_cut(collator):
    text = "a red car " * 10
    collator.max_length = 20
    with pytest.raises(DataError) as caught:
        collator([sample("a dog", "red"), sample(text.strip(), "red")])
    assert str(caught.value).startswith("rows.jsonl:99: ")
    assert "(1 image of 3 included) are more than `max_length` (=20)" in str(caught.value)
    collator.max_length = 4
    with pytest.raises(DataError, match=r"more than `max_length` \(=4\)"):
        collator.prompts([sample("a dog", "red", asked=f"{IMAGE}what is in the picture?\n")])
    length = len(collator_row(collator, "a dog"))
    collator.max_length = length
    assert collator([sample("a dog", "red")])["input_ids"].shape == (1, length)


def collator_row(collator, answer):
    collator.max_length = 10_000
    return collator.encode(sample(answer, "red")).input_ids


def test_images_and_markers_must_agree(collator):
    for one, images, markers in (
        (sample("a dog", "red", asked=IMAGE * 2), 1, 2),
        (sample("a dog", "red", asked="what?\n"), 1, 0),
    ):
        for act in (collator, collator.prompts):
            with pytest.raises(DataError, match=f"rows.jsonl:5: {images} images but {markers} `<image>` in its turns"):
                act([one])


def test_special_tokens_in_the_data_are_refused(collator):
    for act in (collator, collator.prompts):
        with pytest.raises(DataError, match="turn 0 \\(user\\) contains `</s>`"):
            act([sample("a dog", "red", asked=f"{IMAGE}what?</s>\n")])


def test_what_a_template_refuses_names_the_row(collator):
    one = Sample("x", (Turn("system", "Be brief."), Turn("assistant", "x")), (), "rows.jsonl:9")
    with pytest.raises(DataError, match=r"^rows.jsonl:9: this template has no place for a system's turn"):
        collator.prompts([one])


def test_pad_rows_on_either_side():
    rows = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    assert pad_rows(rows, 9, side="right").tolist() == [[1, 2, 3], [4, 9, 9]]
    assert pad_rows(rows, 9, side="left").tolist() == [[1, 2, 3], [9, 9, 4]]
