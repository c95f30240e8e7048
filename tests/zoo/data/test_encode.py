"""What is supervised is what the assistant says, for every kind of tokenizer, and a prompt has the ids of training."""

from itertools import cycle

import pytest
import torch
from answers import of_pieces

from vlmzoo.data import ImageToken, encode, encode_prompt, refuse_special_tokens
from vlmzoo.data.encode import IGNORE
from vlmzoo_registry import AssemblyError, DataError, PluginError
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Turn, marker_positions


def render(before: str, answer: str, after: str = "", *, end: bool = True) -> Rendered:
    text = before + answer + after
    return Rendered(text, marker_positions(text), (Span(len(before), len(before + answer)),), end)


def supervised_text(encoded, tokenizer) -> str:
    kept = encoded.labels[encoded.labels != IGNORE].tolist()
    return tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_supervises_the_answer_and_the_end_over_many_answers(tokenizer, image_token):
    assert len(of_pieces(250)) == 250
    for answer, before in zip(
        of_pieces(250), cycle([IMAGE, f"{IMAGE} {IMAGE}", f"{IMAGE}what is in the picture?\n"]), strict=False
    ):
        encoded = encode(render(before, answer), tokenizer, image_token, source="rows.jsonl:1")
        # The reference does not know of spans: decoding the supervised ids gives the answer back.
        assert supervised_text(encoded, tokenizer).strip() == answer
        assert encoded.labels[-1] == encoded.input_ids[-1] == tokenizer.eos_token_id
        kept = encoded.labels != IGNORE
        assert torch.equal(encoded.labels[kept], encoded.input_ids[kept])
        assert encoded.weights is None


def test_prompt_has_the_ids_of_training_up_to_the_answer(tokenizer, image_token):
    for before in (IMAGE, f"{IMAGE}what is in the picture?\n"):
        asked = Rendered(before, marker_positions(before), (), end=False)
        prompt = encode_prompt(asked, tokenizer, image_token, source="rows.jsonl:1")
        for answer in of_pieces(250)[::2] if before == IMAGE else of_pieces(250)[1::2]:
            encoded = encode(render(before, answer), tokenizer, image_token, source="rows.jsonl:1")
            first = int((encoded.labels != IGNORE).nonzero()[0])
            assert prompt.tolist() == encoded.input_ids[:first].tolist()


def test_begins_once_and_never_ends_by_itself(tokenizer, image_token):
    encoded = encode(render(IMAGE, "a red car", end=False), tokenizer, image_token, source="rows.jsonl:1")
    begins = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    assert encoded.input_ids.tolist().count(tokenizer.bos_token_id) == int(begins)
    assert tokenizer.eos_token_id not in encoded.input_ids
    written = encode(render(f"<s>{IMAGE}", "a red car"), tokenizer, image_token, source="rows.jsonl:1")
    assert written.input_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert written.input_ids[0] == tokenizer.bos_token_id


def test_a_lone_space_at_the_end_of_an_answer_is_supervised(tokenizer, image_token):
    rendered = render(f"{IMAGE}what?\n", "a red car ", "</s>what?", end=False)
    encoded = encode(rendered, tokenizer, image_token, source="rows.jsonl:1")
    kept = encoded.labels[encoded.labels != IGNORE].tolist()
    assert tokenizer.decode(kept, clean_up_tokenization_spaces=False).lstrip() == "a red car "


def test_two_turns_are_supervised_apart_with_their_weights(tokenizer, image_token):
    text = f"{IMAGE}what?\na red car</s>what more?\na blue house</s>"
    spans = []
    for answer, weight in (("a red car</s>", 1.0), ("a blue house</s>", 0.5)):
        spans.append(Span(text.index(answer), text.index(answer) + len(answer), weight))
    encoded = encode(Rendered(text, (0,), tuple(spans), end=False), tokenizer, image_token, source="rows.jsonl:1")
    kept = encoded.labels != IGNORE
    said = tokenizer.decode(encoded.labels[kept].tolist(), clean_up_tokenization_spaces=False)
    assert said.replace("</s> ", "</s>") == "a red car</s>a blue house</s>"
    half = encoded.labels[encoded.weights == 0.5]
    assert tokenizer.decode(half.tolist()).strip() == "a blue house</s>"
    assert encoded.weights[~kept].unique().tolist() == [1.0]


def test_images_take_their_slots_and_are_never_supervised(tokenizer, image_token):
    text = f"{IMAGE}what?\na red {IMAGE} car"
    rendered = Rendered(text, marker_positions(text), (Span(text.index("a red"), len(text)),), end=True)
    encoded = encode(rendered, tokenizer, image_token, source="rows.jsonl:1")
    places = encoded.input_ids == image_token.id
    assert places.sum() == 2 * image_token.slots
    assert (encoded.labels[places] == IGNORE).all()
    one = encode(rendered, tokenizer, ImageToken(image_token.text, image_token.id, 1), source="rows.jsonl:1")
    assert (one.input_ids == image_token.id).sum() == 2
    assert one.labels[one.labels != IGNORE].tolist() == encoded.labels[encoded.labels != IGNORE].tolist()


def test_own_placeholder_of_another_length_moves_the_spans(tokenizer):
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|a_longer_image_placeholder|>", "<i>"]})
    for text in ("<|a_longer_image_placeholder|>", "<i>"):
        token = ImageToken(text, tokenizer.convert_tokens_to_ids(text), 2)
        encoded = encode(render(f"{IMAGE}and {IMAGE}what?\n", "a red car"), tokenizer, token, source="rows.jsonl:1")
        assert supervised_text(encoded, tokenizer).strip() == "a red car"
        assert (encoded.input_ids == token.id).sum() == 4


def test_the_first_id_is_never_supervised(tokenizer, image_token):
    encoded = encode(Rendered("a red car", (), (Span(0, 9),), end=True), tokenizer, image_token, source="rows.jsonl:1")
    assert encoded.labels[0] == IGNORE
    assert (encoded.labels != IGNORE).sum() >= 3


def test_answer_that_changes_the_ids_of_its_prompt_is_refused(tokenizer, image_token):
    # `the` is one token; cut into `th` and `e` the prompt alone would be another token.
    with pytest.raises(DataError) as caught:
        encode(render(f"{IMAGE}th", "e house"), tokenizer, image_token, source="rows.jsonl:7")
    message = str(caught.value)
    assert message.startswith(
        "rows.jsonl:7: what comes before the answer at character 9 (`<image>th`) has other ids when `e house`"
    )
    assert "let the template end its prompts where a token ends" in message


def test_row_without_a_supervised_token_is_refused(tokenizer, image_token):
    with pytest.raises(DataError, match=r"rows.jsonl:3: none of its \d+ tokens is supervised"):
        encode(Rendered(f"{IMAGE}a car", (0,), (), end=False), tokenizer, image_token, source="rows.jsonl:3")


def test_forged_image_token_is_refused(tokenizer):
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|img|>"]})
    token = ImageToken("<|img|>", tokenizer.convert_tokens_to_ids("<|img|>"), 2)
    with pytest.raises(DataError, match=r"rows.jsonl:4: 1 image markers in the text, but .* `<\|img\|>` \(id \d+\) 2 times"):
        encode(render(IMAGE, "a <|img|> car"), tokenizer, token, source="rows.jsonl:4")
    turns = [Turn("user", IMAGE), Turn("assistant", "a <|img|> car</s>")]
    with pytest.raises(DataError) as caught:
        refuse_special_tokens(turns, tokenizer, token, source="rows.jsonl:4")
    assert caught.value.reasons == (
        "rows.jsonl:4: turn 1 (assistant) contains `</s>`: take it out, or drop the row",
        "rows.jsonl:4: turn 1 (assistant) contains `<|img|>`: take it out, or drop the row",
    )
    refuse_special_tokens([Turn("user", f"{IMAGE} a < b and </ s>")], tokenizer, token, source="rows.jsonl:4")


def test_template_that_lies_is_named(tokenizer, image_token):
    with pytest.raises(PluginError, match=r"rows.jsonl:5: the template says images stand at \(\), but its text has"):
        encode(Rendered(f"{IMAGE}a", (), (Span(7, 8),), True), tokenizer, image_token, source="rows.jsonl:5")
    for spans in ((Span(7, 99),), (Span(9, 8),), (Span(8, 10), Span(7, 9)), (Span(8, 8),), (Span(-1, 8),)):
        with pytest.raises(PluginError, match="must be ascending, apart, not empty, and within the 12 characters"):
            encode(Rendered(f"{IMAGE}a car", (0,), spans, True), tokenizer, image_token, source="rows.jsonl:5")


def test_tokenizer_without_an_end_is_refused(tokenizer, image_token):
    tokenizer.eos_token = None
    try:
        with pytest.raises(AssemblyError, match="no end token"):
            encode(render(IMAGE, "a red car"), tokenizer, image_token, source="rows.jsonl:1")
    finally:
        tokenizer.eos_token = "</s>"


def test_empty_prompt_is_refused(tokenizer, image_token):
    empty = Rendered("", (), (), end=False)
    if tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
        assert encode_prompt(empty, tokenizer, image_token, source="rows.jsonl:1").tolist() == [tokenizer.bos_token_id]
    else:
        with pytest.raises(DataError, match=r"rows.jsonl:1: the prompt has no token to start from"):
            encode_prompt(empty, tokenizer, image_token, source="rows.jsonl:1")
