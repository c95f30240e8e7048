"""The rule by which rows are cut: whole exchanges first, then the end of the last answer; images, questions and words stay."""

from copy import copy
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlmzoo.config import load_choice
from vlmzoo.data import Collator, ImageReader, ImageToken
from vlmzoo.data.encode import IGNORE
from vlmzoo.data.truncation import LengthRule
from vlmzoo_registry import DataError, FeatureShape, LayoutContext, NoOptions
from vlmzoo_registry.byte_tokenizer import byte_tokenizer
from vlmzoo_registry.infilling import END, START
from vlmzoo_registry.tasks import IMAGE, Objective, Sample, Template, Turn
from vlmzoo_registry.vision import ImageTransform
from vlmzoo_registry.whole import Whole

SLOTS = 3


def collator(objective="instruct", template="vicuna_v1", most=10_000, cuts=True, positions=10_000, **options) -> Collator:
    """`options` are those of the objective."""
    made = copy(_made(objective, template, tuple(options.items())))
    made.length, made.max_length = LengthRule(most, cuts=cuts), positions
    return made


@cache
def _made(objective: str, template: str, options: tuple) -> Collator:
    tokenizer = byte_tokenizer((IMAGE, START, END))
    tokenizer.add_special_tokens({"mask_token": "[MASK]", "sep_token": "[SEP]"})
    transform = ImageTransform(height=4, width=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    layout = Whole(NoOptions(), LayoutContext((4, 4), lambda size: FeatureShape(width=8, count=SLOTS, grid=None), width=8))
    style = {"name": template} | ({"system": None} if template == "vicuna_v1" else {})
    return Collator(
        objective=load_choice("objective", {"name": objective, **dict(options)}).make(Objective).bind(tokenizer),
        template=load_choice("template", style).make(Template).bind(tokenizer),
        tokenizer=tokenizer,
        image_token=ImageToken(IMAGE, tokenizer.convert_tokens_to_ids(IMAGE), SLOTS),
        images=ImageReader(transform, layout, layout.text),
        max_length=10_000,
    )


def beginning(sample: Sample, turns: int) -> Sample:
    """Its first turns, with their images."""
    images = sum(turn.text.count(IMAGE) for turn in sample.turns[:turns])
    return replace(sample, turns=sample.turns[:turns], images=sample.images[:images])


def talk(*exchanges: tuple[str, str], system: str | None = None) -> Sample:
    turns = [] if system is None else [Turn("system", system)]
    for question, answer in exchanges:
        turns += [Turn("user", question), Turn("assistant", answer)]
    images = sum(question.count(IMAGE) for question, _ in exchanges)
    return Sample("1", tuple(turns), (partial(Image.new, "RGB", (4, 4), "red"),) * images, "rows.jsonl:1")


def learnt(row, tokenizer) -> str:
    return str(tokenizer.decode(row.labels[row.labels != IGNORE]))


THREE = talk((f"{IMAGE}?", "one one"), ("b?", "two two"), ("c?", "three three"))


def test_whole_exchanges_go_first_and_their_answers_keep_their_ends():
    collate = collator()
    one, two, three = (len(collate.encode(beginning(THREE, 2 * count)).input_ids) for count in (1, 2, 3))
    for most, said in (
        (three, " one one<eos> two two<eos> three three<eos>"),
        (three - 1, " one one<eos> two two<eos>"),
        (two, " one one<eos> two two<eos>"),
        (two - 1, " one one<eos>"),
        (one, " one one<eos>"),
        (one - 1, " one one"),
        (one - 3, " one o"),
    ):
        fitted = collator(most=most).fit(THREE)
        assert learnt(fitted.row, collate.tokenizer) == said
        assert fitted.cut == (most < three)
        assert len(fitted.row.input_ids) <= most
        assert len(fitted.sample.images) == 1


def test_exchanges_up_to_the_last_image_stay():
    sample = talk((f"{IMAGE}?", "one"), (f"and {IMAGE}?", "two two two"), ("c?", "three"))
    collate = collator()
    most = len(collate.encode(beginning(sample, 4)).input_ids) - 3
    fitted = collator(most=most).fit(sample)
    assert learnt(fitted.row, collate.tokenizer) == " one<eos> two two t"
    assert int((fitted.row.input_ids == collate.image_token.id).sum()) == 2 * SLOTS
    assert [turn.text for turn in fitted.sample.turns] == [f"{IMAGE}?", "one", f"and {IMAGE}?", "two two two"]


def test_the_system_and_the_question_stay_and_a_row_without_room_for_a_word_is_refused():
    sample = talk(("What is it?", "A car."), system="Be brief.")
    prompt = int((collator().encode(sample).labels != IGNORE).nonzero()[0])
    # The first token of the answer is a space, which says nothing.
    assert learnt(collator(most=prompt + 2).encode(sample), collator().tokenizer) == " A"
    whole, most = len(collator().encode(sample).input_ids), prompt + 1
    with pytest.raises(DataError) as caught:
        collator(most=most).encode(sample)
    assert caught.value.message == (
        f"rows.jsonl:1: {whole} tokens are more than `max_length` (={most}), and its images, "
        "what stands before an answer and the beginning of one are never cut: raise it, or drop the row"
    )


def test_nothing_is_cut_where_the_rule_says_so_and_prompts_never_are():
    whole = len(collator().encode(THREE).input_ids)
    most = whole - 1
    with pytest.raises(DataError) as caught:
        collator(most=most, cuts=False).encode(THREE)
    assert caught.value.message == (
        f"rows.jsonl:1: {whole} tokens (1 image of {SLOTS} included) are more than `max_length` (={most}): raise it, "
        "or shorten or drop the row, or let `too_long: cut` cut its text"
    )
    prompt = collator(most=20).prompts([THREE])["input_ids"]
    assert torch.equal(prompt, collator().prompts([THREE])["input_ids"])
    assert prompt.shape[1] > 20
    with pytest.raises(DataError, match=r"take a language model with more positions; a prompt is never cut"):
        collator(positions=20).prompts([THREE])


def test_a_batch_says_which_rows_are_cut():
    short = talk(("a?", "b"))
    assert "cut_rows" not in collator()([THREE, short])
    assert collator(most=40)([THREE, short])["cut_rows"].tolist() == [True, False]


def test_weights_are_cut_with_their_tokens():
    collate = collator(most=40)
    whole = collate.template.render(THREE.turns, prompt=False)
    assert len(whole.spans) == 3

    class Weighted(type(collate.objective)):
        def render(self, sample, template):
            rendered = super().render(sample, template)
            return replace(rendered, spans=tuple(replace(span, weight=0.5) for span in rendered.spans))

    collate.objective = Weighted(NoOptions())
    row = collate.encode(THREE)
    assert len(row.weights) == len(row.labels) == len(row.input_ids)
    assert set(row.weights[row.labels != IGNORE].tolist()) == {0.5}


@pytest.mark.parametrize("objective", ["text", "masked", "blank_infilling"])
@pytest.mark.parametrize("most", [12, 25, 40])
def test_objectives_that_change_a_row_are_given_one_that_fits_afterwards(objective, most):
    sample = talk((f"{IMAGE}", "a long text of many words that goes on"))
    for epoch in range(5):
        fitted = collator(objective, "plain", most=most).fit(replace(sample, epoch=epoch))
        assert fitted.cut
        assert len(fitted.row.input_ids) <= most
        assert int((fitted.row.input_ids == collator().image_token.id).sum()) == SLOTS
        assert bool((fitted.row.labels != IGNORE).any())
        again = collator(objective, "plain", most=most).fit(replace(sample, epoch=epoch))
        assert torch.equal(again.row.input_ids, fitted.row.input_ids)


def test_a_pair_without_its_second_text_is_refused():
    sample = replace(talk(("the first text", "the second")), label=0)
    collate = collator("masked", "pair", most=20, next_sentence=True)
    assert collate.fit(sample).cut
    with pytest.raises(DataError, match=r"^rows.jsonl:1: 26 tokens .* and the beginning of one are never cut: raise it"):
        collator("masked", "pair", most=10, next_sentence=True).fit(sample)


@pytest.mark.parametrize("objective", ["text", "masked"])
def test_an_answer_begins_also_where_the_whole_text_is_learnt(objective):
    """What is supervised does not say where an answer begins there: the question is supervised too."""
    sample = talk(("What is it?", "A car."), system="Be brief.")
    prompt = int((collator().encode(sample).labels != IGNORE).nonzero()[0])
    kept = collator(objective, most=prompt + 2).fit(sample)  # the first token of the answer is a space, which says nothing
    assert kept.cut and len(kept.row.input_ids) == prompt + 2
    with pytest.raises(DataError, match="what stands before an answer and the beginning of one are never cut"):
        collator(objective, most=prompt + 1).fit(sample)


def test_an_answer_begins_also_where_spans_are_taken_out_and_put_behind_the_text():
    sample = talk(("What is it?", "A car."))
    prompt = int((collator().encode(sample).labels != IGNORE).nonzero()[0])
    with pytest.raises(DataError, match="what stands before an answer and the beginning of one are never cut"):
        collator("blank_infilling", most=prompt + 2).fit(sample)  # there is a start and an end token at least
    assert collator("blank_infilling", most=len(collator("blank_infilling").encode(sample).input_ids) - 1).fit(sample).cut


def test_a_text_that_nobody_asked_for_is_cut_down_to_its_first_words():
    sample = Sample("1", (Turn("assistant", "a long text of many words"),), (), "rows.jsonl:1")
    for objective in ("text", "masked", "caption"):
        fitted = collator(objective, "plain", most=4).fit(sample)
        assert fitted.cut and len(fitted.row.input_ids) == 4


WORDS = st.lists(st.sampled_from(["a", "red", "car", "über", "😀", "?"]), min_size=1, max_size=5).map(" ".join)
QUESTIONS = st.tuples(st.integers(0, 2), WORDS).map(lambda asked: IMAGE * asked[0] + asked[1])


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(exchanges=st.lists(st.tuples(QUESTIONS, WORDS), min_size=1, max_size=5), most=st.integers(1, 200))
def test_what_is_left_is_how_the_row_begins_and_as_much_as_may_be(exchanges, most):
    sample = talk(*exchanges)
    collate, cutting = collator(), collator(most=most)
    whole = collate.encode(sample).input_ids
    last_image = max((number for number, (question, _) in enumerate(exchanges) if IMAGE in question), default=0)
    rows = [collate.encode(beginning(sample, 2 * count)) for count in range(1, len(exchanges) + 1)]
    fits = [count for count, row in enumerate(rows) if count >= last_image and len(row.input_ids) <= most]
    first = rows[last_image]
    prompt = len(collate.prompts([beginning(sample, 2 * last_image + 1)])["input_ids"][0])
    if not fits and most < prompt + 2:  # a space and a token of the answer
        with pytest.raises(DataError, match=rf"{len(whole)} tokens.* are more than `max_length` \(={most}\), and"):
            cutting.fit(sample)
        return
    fitted = cutting.fit(sample)
    expected = rows[fits[-1]] if fits else replace(first, input_ids=first.input_ids[:most], labels=first.labels[:most])
    assert torch.equal(fitted.row.input_ids, expected.input_ids)
    assert torch.equal(fitted.row.labels, expected.labels)
    assert fitted.cut == (len(whole) > most)
