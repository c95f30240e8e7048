"""The plain style: images, perhaps the user's words, and the caption, of which every character is supervised."""

import pytest

from vlmzoo_registry import DataError, NoOptions
from vlmzoo_registry.tasks import IMAGE, Rendered, Sample, Span, Turn
from vlmzoo_tasks.caption import CaptionObjective
from vlmzoo_tasks.plain import PlainTemplate

PLAIN = PlainTemplate(NoOptions())


def render(user: str | None, answer: str = "a red car") -> Rendered:
    turns = [Turn("assistant", answer)] if user is None else [Turn("user", user), Turn("assistant", answer)]
    rendered = PLAIN.render(turns, prompt=False)
    # Whatever is asked, the prompt is the text of training up to the answer.
    prompt = PLAIN.render(turns[:-1], prompt=True)
    start = rendered.spans[0].start
    assert prompt == Rendered(rendered.text[:start], rendered.images, (), end=False)
    assert rendered.end
    assert rendered.text[start : rendered.spans[0].end] == answer.strip()
    return rendered


@pytest.mark.parametrize("user", [IMAGE, f" {IMAGE}\n", f"\n{IMAGE}"])
def test_image_alone_is_directly_before_the_answer(user):
    assert render(user) == Rendered(f"{IMAGE}a red car", (0,), (Span(7, 16),), end=True)


def test_images_alone_have_no_space_between():
    assert render(f"{IMAGE}\n{IMAGE} ").text == f"{IMAGE}{IMAGE}a red car"


@pytest.mark.parametrize(
    ("user", "text"),
    [
        (f"{IMAGE}\nWhat is it? ", f"{IMAGE}\nWhat is it?\na red car"),
        (f"What is it?\n{IMAGE}", f"What is it?\n{IMAGE}a red car"),
        (f"Compare {IMAGE} with {IMAGE}.", f"Compare {IMAGE} with {IMAGE}.\na red car"),
        ("What is it?", "What is it?\na red car"),
    ],
)
def test_words_of_the_user_are_kept_where_they_stand(user, text):
    assert render(user).text == text


def test_answer_is_stripped_and_may_stand_alone():
    assert render(IMAGE, "  a red car\n").text == f"{IMAGE}a red car"
    assert render(None) == Rendered("a red car", (), (Span(0, 9),), end=True)


@pytest.mark.parametrize(
    ("roles", "prompt"),
    [
        (["system", "user", "assistant"], False),
        (["user", "assistant", "user", "assistant"], False),
        (["user"], False),
        ([], False),
        (["assistant"], True),
        (["user", "assistant"], True),
    ],
)
def test_other_turns_are_refused(roles, prompt):
    with pytest.raises(DataError) as caught:
        PLAIN.render([Turn(role, "x") for role in roles], prompt=prompt)
    assert f"(the turns are {', '.join(roles) or 'none'}): use a chat template" in str(caught.value)


def test_objective_supervises_all_the_assistant_says():
    sample = Sample("7", (Turn("user", IMAGE), Turn("assistant", "a red car")), (lambda: None,), "rows.jsonl:7")
    assert CaptionObjective(NoOptions()).render(sample, PLAIN) == Rendered(f"{IMAGE}a red car", (0,), (Span(7, 16),), end=True)


def test_objective_names_the_row_it_refuses():
    objective = CaptionObjective(NoOptions())
    with pytest.raises(
        DataError, match=r"^rows.jsonl:7: template `plain` renders at most one turn of the user and then one of"
    ):
        objective.render(Sample("7", (Turn("system", "x"),), (), "rows.jsonl:7"), PLAIN)
    with pytest.raises(DataError, match=r"^rows.jsonl:8: the assistant says nothing, so nothing is supervised"):
        objective.render(Sample("8", (Turn("user", IMAGE), Turn("assistant", " ")), (), "rows.jsonl:8"), PLAIN)
