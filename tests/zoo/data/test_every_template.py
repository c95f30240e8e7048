"""Every template over real kinds of tokenizers and answers of any characters: all that is said is learnt, and nothing else.

Which characters are learnt is found out without the code under test: the text is tokenised once more, and the offsets of the
tokens that have a label say which characters they are.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import pytest
from answers import PIECES, of_any_characters, of_pieces
from bound_templates import COMPONENTS, CONTROL, ONE_EXCHANGE, OWN, TALKS, bound_template, spoken
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, made

from vlmzoo.data import ImageToken, encode, encode_prompt, refuse_special_tokens
from vlmzoo.data.encode import IGNORE
from vlmzoo_registry import AssemblyError, DataError, PluginError
from vlmzoo_registry.tasks import IMAGE, Rendered, Template, Turn

# One style of each build: the others differ in name and in what the system says.
BUILDS = [
    "v0",
    "v0_mmtag",
    "vicuna_v1",
    "llama_2",
    "mistral_instruct",
    "chatml_direct",
    "qwen",
    "llama_3",
    "gemma",
    "phi_3",
]


ANSWERS = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map("".join),
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn", "Co"]), min_size=1, max_size=12),
)
TEN = st.lists(ANSWERS.map(spoken).filter(bool), min_size=10, max_size=10)


def fuzz(examples: int):
    return settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
    )


def talk(said: list[str]) -> list[Turn]:
    """These answers, each to a question; the first to one about an image."""
    asked = [f"{IMAGE}\nWhat is this?", *["And here?"] * (len(said) - 1)]
    return [
        turn
        for question, answer in zip(asked, said, strict=True)
        for turn in (Turn("user", question), Turn("assistant", answer))
    ]


def check(kind: str, name: str, said: list[str], wrong: Callable[[Template], Template] | None = None) -> None:
    """One row: what its tokens with a label cover is what the assistant says with its end; its prompts have its ids."""
    tokenizer = made(kind, CONTROL)
    image = ImageToken(IMAGE, tokenizer.convert_tokens_to_ids(IMAGE), 1)
    bound = bound_template(kind, name) if wrong is None else wrong(bound_template(kind, name))
    turns = talk(said)
    rendered = bound.render(turns, prompt=False)
    encoded = encode(rendered, tokenizer, image, source="row 1")
    ids, labels = encoded.input_ids.tolist(), encoded.labels.tolist()
    text = rendered.text
    assert len(rendered.spans) == len(said)

    written = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    again = tokenizer(text, add_special_tokens=not written, return_offsets_mapping=True, verbose=False)
    assert ids[: len(ids) - rendered.end] == again["input_ids"][: len(ids) - rendered.end]
    covered, learnt = set(), set()
    for label, offsets in zip(labels, again["offset_mapping"][: len(ids) - rendered.end], strict=False):
        covered.update(range(*offsets))
        if label != IGNORE:
            learnt.update(range(*offsets))
    spans = {place for span in rendered.spans for place in range(span.start, span.end)}
    assert learnt <= spans, f"learnt beside the answers: {[text[place] for place in sorted(learnt - spans)]}"
    # No token covers what a tokenizer drops: spaces whose offsets are trimmed, marks that it composes or takes off.
    lost = {place for place in spans - learnt if place in covered or not dropped(text[place])}
    assert not lost, f"not learnt: {[text[place] for place in sorted(lost)]} of {text!r}"

    stop = bound.stop or (tokenizer.eos_token if rendered.end else None)
    if stop is not None:
        assert labels.count(tokenizer.convert_tokens_to_ids(stop)) == len(said)
    runs = sum(label != IGNORE and before == IGNORE for before, label in zip([IGNORE, *labels], labels, strict=False))
    assert runs == len(said) or not bound.stop
    begins = {"llama_2": len(said), "llava_llama_2": len(said)}.get(
        name, int(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
    )
    if tokenizer.bos_token is not None and tokenizer.bos_token not in CONTROL:
        assert ids.count(tokenizer.bos_token_id) == begins
        assert begins == 0 or ids[0] == tokenizer.bos_token_id
    # `encode` compares the ids of each prompt; that of a whole conversation is made as generation makes it.
    for number, span in list(enumerate(rendered.spans))[-1:]:
        asked = bound.render(turns[: 2 * number + 1], prompt=True)
        prompt = encode_prompt(asked, tokenizer, image, source="row 1").tolist()
        assert prompt == ids[: len(prompt)]
        assert labels[len(prompt)] != IGNORE and labels[len(prompt) - 1] == IGNORE
        assert asked.text == text[: span.start]


def dropped(character: str) -> bool:
    return character.isspace() or unicodedata.category(character)[0] in "MC" or unicodedata.category(character) == "Zs"


# The style ends its prompts with two line breaks: GPT-2's cut, which SmolLM2 has, makes one token of them, or two.
REFUSED = {("SmolLM2", "llama_3")}
REFUSAL = r"a prompt ends in .* which becomes .* when an answer follows"


def rows(kind: str, said: list[str], builds: list[str]) -> None:
    for name in builds:
        if (kind, name) in REFUSED:
            with pytest.raises(AssemblyError, match=REFUSAL):
                bound_template(kind, name)
        else:
            check(kind, name, said)
    for answer in said[:2]:
        check(kind, "plain", [answer])
        check(kind, "v0_plain", [" ".join(answer.split())])


QUICK = [kind for kind in KINDS if kind != "SmolLM2"]


@pytest.mark.parametrize("kind", QUICK)
@fuzz(4)
@given(said=TEN)
@example(said=["A bird.", "Red.", "In a tree.", "Yes.", "It sings."])
def test_all_that_is_said_is_learnt_and_nothing_else(kind, said):
    rows(kind, said, BUILDS)


SEEN: dict[str, set[object]] = defaultdict(set)
HOW_MANY = 500
TURNS = 10
"""How many answers a conversation has in the slow tier; each costs the tokens of all that comes before it."""


@cache
def five_hundred() -> tuple[str, ...]:
    """Half of them put together from words, half from any characters, mixed."""
    half = HOW_MANY // 2
    words, characters = (
        [text for text in map(spoken, made_of(HOW_MANY)) if text][:half] for made_of in (of_pieces, of_any_characters)
    )
    return tuple(text for pair in zip(words, characters, strict=True) for text in pair)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TALKS, OWN, *ONE_EXCHANGE])
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_500_answers_is_learnt_and_nothing_else(kind, name):
    """Each template with each kind: every one of 500 answers, in conversations of ten where it writes conversations."""
    if (kind, name) in REFUSED:
        with pytest.raises(AssemblyError, match=REFUSAL):
            bound_template(kind, name)
        return
    answers = [" ".join(text.split()) for text in five_hundred()] if name == "v0_plain" else list(five_hundred())
    each = 1 if name in ONE_EXCHANGE else TURNS
    conversations = [answers[start : start + each] for start in range(0, len(answers), each)]
    assert sum(len(said) for said in conversations) == HOW_MANY
    bound = bound_template(kind, name)
    for said in conversations:
        # Some styles differ in their names and in what the system says alone: what is written alike is looked at once.
        turns = talk(said)
        written = (bound.stop, bound.render(turns, prompt=False), bound.render(turns[:-1], prompt=True))
        if written not in SEEN[kind]:
            check(kind, name, said)
            SEEN[kind].add(written)


def test_all_templates_are_looked_at():
    assert {*TALKS, OWN, *ONE_EXCHANGE} == set(COMPONENTS)
    assert set(BUILDS) < set(TALKS)


@pytest.mark.parametrize("name", TALKS)
def test_words_of_the_user_forge_neither_turns_nor_images(name):
    """Whatever a special token says, the data must not say it; nor, in styles of words, what the style itself writes."""
    tokenizer = made("byte-level BPE", CONTROL)
    image = ImageToken(IMAGE, tokenizer.convert_tokens_to_ids(IMAGE), 1)
    bound = bound_template("byte-level BPE", name)
    for token in (*bound.control_tokens, tokenizer.eos_token, tokenizer.bos_token):
        turns = [Turn("user", f"Look {token}"), Turn("assistant", "Yes.")]
        with pytest.raises(DataError, match="text of the data is a special token of the tokenizer"):
            refuse_special_tokens(turns, tokenizer, image, source="row 1")
    if bound.stop_words is not None:
        for turns in (
            [Turn("user", f"x{bound.stop_words} Human: y")],
            [Turn("user", "x"), Turn("assistant", f"y{bound.stop_words}z")],
        ):
            with pytest.raises(DataError, match="which this style writes itself"):
                bound.render(turns, prompt=len(turns) == 1)
    # An image that is marked in the text is one image, wherever it stands.
    rendered = bound.render([Turn("user", f"a{IMAGE}b {IMAGE}"), Turn("assistant", "Yes.")], prompt=False)
    encoded = encode(rendered, tokenizer, image, source="row 1")
    assert encoded.input_ids.tolist().count(image.id) == 2


class Wrong(Template):
    """A template with its spans moved, or with a token more in its text."""

    def __init__(self, sound: Template, start: int = 0, end: int = 0, first: str = "") -> None:
        self.sound, self.start, self.end, self.first = sound, start, end, first

    @property
    def stop(self) -> str | None:
        return self.sound.stop

    def render(self, turns, *, prompt: bool) -> Rendered:
        rendered, more = self.sound.render(turns, prompt=prompt), len(self.first)
        return replace(
            rendered,
            text=self.first + rendered.text,
            images=tuple(place + more for place in rendered.images),
            spans=tuple(
                replace(span, start=span.start + more + self.start, end=span.end + more + self.end) for span in rendered.spans
            ),
        )


@pytest.mark.parametrize(
    "kind", ["byte-level BPE", "byte-level BPE, trimmed offsets, BOS", "SentencePiece BPE, prefix space, BOS"]
)
@pytest.mark.parametrize("name", ["vicuna_v1", "qwen"])
@pytest.mark.parametrize(
    "fault",
    [
        {"start": 2},  # the first character of the answer is not learnt
        {"start": -4},  # the end of the prompt is
        {"end": -7},  # the end token is not, nor is the last character
        {"end": 5},  # what the user says next is
        {"first": "<s><s>"},  # two begin tokens
    ],
    ids=str,
)
def test_planted_faults_are_seen(kind, name, fault):
    check(kind, name, ["A bird!", "Red."], Wrong)
    with pytest.raises((AssertionError, DataError, PluginError)):
        check(kind, name, ["A bird!", "Red."], partial(Wrong, **fault))
