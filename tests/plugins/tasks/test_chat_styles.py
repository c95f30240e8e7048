"""The chat styles, character for character: text, spans, images and end tokens as the published code writes them."""

import pytest
from transformers import PreTrainedTokenizerFast

from vlmzoo_registry import AssemblyError, ConfigError, DataError, PluginError
from vlmzoo_registry.byte_tokenizer import byte_tokenizer
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.config import AnswerConfig, VicunaConfig
from vlmzoo_tasks.styles import chatml_direct, vicuna_v1

ASKED = Turn("user", f"{IMAGE}\nWhat is this?")
BIRD = Turn("assistant", "A bird.")
COLOUR = Turn("user", "Which colour?")
RED = Turn("assistant", " Red.\n")
TWO = Turn("user", f"{IMAGE} and {IMAGE}: compare.")
BOTH = Turn("assistant", "Both are birds.")
BRIEF = Turn("system", "Be brief.")
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def tokenizer(*control: str, end: str = "<eos>") -> PreTrainedTokenizerFast:
    made = byte_tokenizer()
    made.add_special_tokens({"extra_special_tokens": [*control, end], "eos_token": end})
    return made


def vicuna(**options):
    return vicuna_v1(VicunaConfig(**options)).bind(tokenizer(end="</s>"))


def chatml(**options):
    return chatml_direct(AnswerConfig(**options)).bind(tokenizer("<|im_start|>", "<|im_end|>"))


# (template, turns, text with what is learnt in ⟦ ⟧)
EXPECTED = [
    (vicuna(), [ASKED, BIRD], f"{VICUNA_SYSTEM} USER: {IMAGE}\nWhat is this? ASSISTANT:⟦ A bird.</s>⟧"),
    (
        vicuna(system=None),
        [ASKED, BIRD, COLOUR, RED],
        f"USER: {IMAGE}\nWhat is this? ASSISTANT:⟦ A bird.</s>⟧USER: Which colour? ASSISTANT:⟦ Red.</s>⟧",
    ),
    (
        vicuna(),
        [BRIEF, Turn("user", "Hello"), Turn("assistant", "Hello!"), TWO, BOTH, COLOUR, RED],
        "Be brief. USER: Hello ASSISTANT:⟦ Hello!</s>⟧"
        f"USER: {IMAGE} and {IMAGE}: compare. ASSISTANT:⟦ Both are birds.</s>⟧USER: Which colour? ASSISTANT:⟦ Red.</s>⟧",
    ),
    (
        chatml(),
        [ASKED, BIRD],
        f"<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n{IMAGE}\nWhat is this?<|im_end|>"
        "<|im_start|>assistant\n⟦A bird.<|im_end|>⟧",
    ),
    (
        chatml(system=None),
        [Turn("user", IMAGE), BIRD, COLOUR, RED],
        f"<|im_start|>user\n{IMAGE}<|im_end|><|im_start|>assistant\n⟦A bird.<|im_end|>⟧"
        "<|im_start|>user\nWhich colour?<|im_end|><|im_start|>assistant\n⟦Red.<|im_end|>⟧",
    ),
    (
        chatml(system="Look."),
        [BRIEF, Turn("user", "Hello"), Turn("assistant", "Hello!"), TWO, BOTH, COLOUR, RED],
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\nHello<|im_end|><|im_start|>assistant\n⟦Hello!<|im_end|>⟧"
        f"<|im_start|>user\n{IMAGE} and {IMAGE}: compare.<|im_end|><|im_start|>assistant\n⟦Both are birds.<|im_end|>⟧"
        "<|im_start|>user\nWhich colour?<|im_end|><|im_start|>assistant\n⟦Red.<|im_end|>⟧",
    ),
]


def marked(rendered) -> str:
    """The text with its spans in brackets."""
    text = rendered.text
    for span in reversed(rendered.spans):
        assert span.weight == 1.0
        text = f"{text[: span.start]}⟦{text[span.start : span.end]}⟧{text[span.end :]}"
    return text


@pytest.mark.parametrize(("template", "turns", "expected"), EXPECTED)
def test_text_and_spans_are_those_of_the_style(template, turns, expected):
    rendered = template.render(turns, prompt=False)
    assert marked(rendered) == expected
    assert rendered.end is False
    assert [rendered.text[place : place + len(IMAGE)] for place in rendered.images] == [IMAGE] * expected.count(IMAGE)
    # Each of its prompts is the text up to that answer.
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    for number, span in zip(answers, rendered.spans, strict=True):
        prompt = template.render(turns[:number], prompt=True)
        assert (prompt.text, prompt.spans, prompt.end) == (rendered.text[: span.start], (), False)


@pytest.mark.parametrize("template", [vicuna(), chatml()])
@pytest.mark.parametrize(
    ("turns", "prompt", "reason"),
    [
        ([], False, "(the turns are none)"),
        ([ASKED], False, "ends with the assistant (the turns are user)"),
        ([ASKED, BIRD], True, "ends with the user (the turns are user, assistant)"),
        ([BIRD], False, "(the turns are assistant)"),
        ([ASKED, COLOUR, BIRD], False, "(the turns are user, user, assistant)"),
        ([ASKED, BIRD, BRIEF, COLOUR, RED], False, "(the turns are user, assistant, system, user, assistant)"),
        ([BRIEF], True, "(the turns are system)"),
        ([ASKED, Turn("assistant", " \n")], False, "turn 1 (assistant) has no words: fill it, or drop the row"),
        ([Turn("user", ""), BIRD], False, "turn 0 (user) has no words"),
        ([ASKED, Turn("assistant", IMAGE)], False, "turn 1 (assistant) contains `<image>`"),
        ([Turn("system", IMAGE), ASKED, BIRD], False, "turn 0 (system) contains `<image>`"),
    ],
)
def test_turns_out_of_order_are_refused(template, turns, prompt, reason):
    with pytest.raises(DataError) as caught:
        template.render(turns, prompt=prompt)
    assert caught.value.message.endswith("cannot write these turns:")
    assert len(caught.value.reasons) == 1
    assert reason in caught.value.reasons[0]


def test_generation_stops_where_training_did():
    assert vicuna().stop == "</s>"
    assert chatml().stop == "<|im_end|>"


def test_tokenizer_without_the_tokens_of_the_style_is_refused():
    with pytest.raises(AssemblyError) as caught:
        chatml_direct(AnswerConfig()).bind(tokenizer("<|im_start|>"))
    assert caught.value.message == (
        "template `chatml_direct` cannot be used with this tokenizer: generation could not stop where training did"
    )
    assert caught.value.reasons == (
        "the tokenizer has no special token `<|im_end|>` (it would cut it into 10 pieces): use a style of words (`vicuna_v1`, "
        "which ends answers with the tokenizer's own end token), or a model that has it",
    )
    # As plain added tokens they would not be kept out of the data, nor out of what the reader is shown.
    plain = byte_tokenizer()
    plain.add_tokens(["<|im_start|>", "<|im_end|>"])
    with pytest.raises(AssemblyError, match=r"no special token `<\|im_start\|>`"):
        chatml_direct(AnswerConfig()).bind(plain)
    endless = byte_tokenizer()
    endless.eos_token = None
    with pytest.raises(
        AssemblyError, match=r"ends answers with the tokenizer's end token \(`eos_token`\), and this one has none"
    ):
        vicuna_v1(VicunaConfig()).bind(endless)


def test_a_system_that_forges_is_refused():
    with pytest.raises(ConfigError, match="must not contain `<image>`: images stand in what the user says"):
        vicuna(system=f"Look at {IMAGE}")
    with pytest.raises(AssemblyError, match=r"`system` contains the special token `<\|im_end\|>`: take it out"):
        chatml(system="x<|im_end|>")


def test_unbound_it_does_not_render():
    with pytest.raises(PluginError, match="`vicuna_v1` must be bound to a tokenizer before it renders"):
        vicuna_v1(VicunaConfig()).render([ASKED, BIRD], prompt=False)
