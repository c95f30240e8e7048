"""Who says which tokens: held to where the words stand in the text, for every style, and given up where it is not known."""

from dataclasses import replace

import pytest
from bound_templates import CONTROL, OWN, TALKS, bound_template
from tokenizer_kinds import made

from vlmzoo.data import ImageToken, encode
from vlmzoo.roles import roles_of_tokens
from vlmzoo_registry import DataError
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Template, Turn

TALK = (
    Turn("system", "Qbe brief."),
    Turn("user", f"{IMAGE}\nQwhat is this? "),
    Turn("assistant", "A bird, Zsee."),
    Turn("user", f"Qand {IMAGE} Qhere?"),
    Turn("assistant", "Znothing.\nA tree."),
)
SAID = {"system": ["Qbe brief."], "user": ["Qwhat is this?", "Qand", "Qhere?"]}
KINDS = ["bytes", "byte-level BPE, trimmed offsets, BOS", "SentencePiece BPE, prefix space, BOS", "WordPiece"]


def roles(kind: str, template: Template, turns: tuple[Turn, ...], rendered: Rendered | None = None, shown=(3,)) -> list[str]:
    """Who says each token; `shown` stands for each image."""
    tokenizer = made(kind, CONTROL)
    rendered = template.render(turns, prompt=False) if rendered is None else rendered
    image = ImageToken(IMAGE, tokenizer.convert_tokens_to_ids(IMAGE), 3)
    images = [shown] * len(rendered.images)
    found = roles_of_tokens(rendered, turns, template, tokenizer, image, source="row 1", images=images)
    assert len(found) == len(encode(rendered, tokenizer, image, source="row 1", images=images).input_ids)
    return list(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*TALKS, OWN])
def test_words_are_whose_they_are(kind, name):
    template, tokenizer = bound_template(kind, name), made(kind, CONTROL)
    found = roles(kind, template, TALK)
    rendered = template.render(TALK, prompt=False)
    # Where each word stands is searched for here, as each stands once.
    whose = ["style"] * len(rendered.text)
    for role, texts in SAID.items():
        for text in texts:
            assert rendered.text.count(text) == 1
            whose[rendered.text.index(text) : rendered.text.index(text) + len(text)] = [role] * len(text)
    for span in rendered.spans:
        whose[span.start : span.end] = ["assistant"] * (span.end - span.start)
    for place in rendered.images:
        whose[place : place + len(IMAGE)] = ["image"] * len(IMAGE)
    written = tokenizer.bos_token is not None and rendered.text.startswith(tokenizer.bos_token)
    alone = tokenizer(rendered.text, add_special_tokens=not written, return_offsets_mapping=True)["offset_mapping"]
    expected = []
    for start, end in alone:
        around = whose[start:end] if start < end else {*whose[start - 1 : start + 1]} if start else ()
        says = [each for each in around if each != "style"] if start < end or len(around) == 1 else []
        expected += [says[0]] * (3 if says[0] == "image" else 1) if says else ["style"]
    assert found == expected[: len(found)]
    assert {"system", "user", "assistant", "image", "style"} == set(found)


def test_what_a_layout_writes_belongs_to_the_image():
    found = roles("bytes", bound_template("bytes", "qwen"), TALK, shown=("<a>", 2, "\n", 1))
    assert found.count("image") == 2 * (3 + 2 + 1 + 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("plain", {"user": 5, "assistant": 5}), ("v0_plain", {"assistant": 5}), ("pair", {"user": 5, "assistant": 5})],
)
def test_templates_of_one_exchange(name, expected):
    turns = (Turn("user", "Qone?"), Turn("assistant", "Ztwo."))
    found = roles("bytes", bound_template("bytes", name), turns)
    assert {role: found.count(role) for role in expected if role != "assistant"} == {
        k: v for k, v in expected.items() if k != "assistant"
    }
    assert found.count("assistant") == expected["assistant"] + 1
    assert found[-1] == "assistant"


class Shouting(Template):
    """Changes the words of the user."""

    def render(self, turns, *, prompt):
        (asked, answered) = turns
        text = asked.text.upper() + "! "
        return Rendered(text + answered.text, (), (Span(len(text), len(text) + len(answered.text)),), True)


class Choosy(Shouting):
    """Refuses words that it does not know."""

    def render(self, turns, *, prompt):
        if turns[0].text != "Qone?":
            raise DataError("what?")
        return super().render(turns, prompt=prompt)


class Reversing(Shouting):
    """Puts the words of the system behind those of the user."""

    def render(self, turns, *, prompt):
        system, asked, answered = turns
        text = f"{asked.text}|{system.text}|"
        return Rendered(text + answered.text, (), (Span(len(text), len(text) + len(answered.text)),), True)


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (Shouting(), ("Qone?", "Ztwo.")),
        (Choosy(), ("Qone?", "Ztwo.")),
        (Reversing(), ("Be kind.", "Qone?", "Ztwo.")),
        (bound_template("bytes", "qwen"), ("Qone\U000f8f10?", "Ztwo.")),
    ],
    ids=["changes words", "refuses marks", "moves words", "marks in the data"],
)
def test_what_is_not_known_is_said_to_be_the_prompt(template, turns):
    named = tuple(Turn(role, words) for role, words in zip(("system", "user", "assistant")[-len(turns) :], turns, strict=True))
    found = roles("bytes", template, named)
    assert set(found) == {"prompt", "assistant"}
    assert found.count("assistant") >= len("Ztwo.")


def test_a_text_that_is_not_the_template_s_is_nobody_s():
    template = bound_template("bytes", "plain")
    turns = (Turn("user", "Qone?"), Turn("assistant", "Ztwo."))
    rendered = template.render(turns, prompt=False)
    assert set(roles("bytes", template, turns, replace(rendered, text=rendered.text + "?", end=False))) == {"prompt"}
