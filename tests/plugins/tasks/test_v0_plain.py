"""LLaVA's first stage to the letter: images, the caption, a line break, and nothing of what the user says."""

import pytest

from vlmzoo_registry import DataError, NoOptions
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Turn
from vlmzoo_tasks.v0_plain import V0PlainTemplate

V0_PLAIN = V0PlainTemplate(NoOptions())


@pytest.mark.parametrize(
    ("user", "text"),
    [
        (f"{IMAGE}\nDescribe it.", "<image>a red car\n"),
        (f"Describe it.\n{IMAGE}", "<image>a red car\n"),
        (f"{IMAGE} and {IMAGE} and {IMAGE}", "<image><image><image>a red car\n"),
        ("Describe it.", "a red car\n"),
        (None, "a red car\n"),
    ],
)
def test_images_the_caption_and_a_line_break(user, text):
    turns = [*([] if user is None else [Turn("user", user)]), Turn("assistant", " a red car ")]
    start = len(text) - len("a red car\n")
    images = tuple(range(0, start, len(IMAGE)))
    assert V0_PLAIN.render(turns, prompt=False) == Rendered(text, images, (Span(start, len(text)),), end=False)
    assert V0_PLAIN.render(turns[:-1], prompt=True) == Rendered(text[:start], images, (), end=False)
    assert (V0_PLAIN.stop, V0_PLAIN.stop_words) == (None, "\n")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([Turn("user", IMAGE), Turn("assistant", "a car\na house")], "the caption has several lines, and a line break ends it"),
        ([Turn("user", IMAGE), Turn("assistant", " ")], "the caption has no words: drop the row, or use `plain`"),
        ([Turn("system", "x"), Turn("assistant", "y")], "renders at most one turn of the user and then one of the assistant"),
        ([Turn("user", "x"), Turn("assistant", "y")] * 2, "(the turns are user, assistant, user, assistant): use a chat"),
    ],
)
def test_what_it_cannot_write_is_refused(turns, reason):
    with pytest.raises(DataError) as caught:
        V0_PLAIN.render(turns, prompt=False)
    assert str(caught.value).startswith("template `v0_plain`")
    assert reason in str(caught.value)
