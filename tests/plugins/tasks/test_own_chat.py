"""The tokenizer's own chat template: spans character for character, and whatever would make them a guess is refused."""

import pytest
from transformers import PreTrainedTokenizerFast

import vlmzoo_tasks.own_chat
from vlmzoo_registry import AssemblyError, ConfigError, DataError, PluginError
from vlmzoo_registry.byte_tokenizer import byte_tokenizer
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.config import OwnChatConfig
from vlmzoo_tasks.own_chat import OwnChatTemplate

# Written for these tests after the build of published ones.
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set start = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set talk = messages[1:] %}{% else %}{% set start = '' %}{% set talk = messages %}{% endif %}"
    "{% for m in talk %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ (start if loop.first else '') + m.content | trim }} "
    "[/INST]{% else %} {{ m.content | trim }} {{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
DATED = (
    "{{ bos_token }}[Today: {{ strftime_now('%d %b %Y') }}]\n"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
THINKING = (  # Qwen 3's way: an empty thought before the last answer, which the model has to say itself
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = """{%- set ns = namespace(first=true) %}
{%- if tools %}
    {{- tools | tojson(indent=2) }}
{%- endif %}
{%- for m in messages %}
    {%- if ns.first %}
        {%- set ns.first = false %}
        {{- '<|im_start|>' ~ ({'who': m.role} | tojson) }}
    {%- else %}
        {{- '<|im_start|>' ~ ({'who': m.role} | tojson) }}
    {%- endif %}
    {%- if loop.index > 99 %}{%- break %}{%- endif %}
    {%- generation %}
    {{- m.content }}
    {%- endgeneration %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>' ~ ({'who': 'assistant'} | tojson) }}
{%- endif %}
"""


def tokenizer(template: str, *control: str) -> PreTrainedTokenizerFast:
    made = byte_tokenizer(control)
    made.chat_template = template
    return made


def bound(template: str, *control: str, **options) -> OwnChatTemplate:
    return OwnChatTemplate(OwnChatConfig(**options)).bind(tokenizer(template, *control))


ASKED = Turn("user", f"{IMAGE}\nWhat is this?")
BIRD = Turn("assistant", "A bird.")
COLOUR = Turn("user", " Which colour? ")
RED = Turn("assistant", " Red.\n")
TWO = Turn("user", f"{IMAGE} and {IMAGE}: compare.")
BOTH = Turn("assistant", "Both are birds.")
BRIEF = Turn("system", "Be brief.")
IM = ("<|im_start|>", "<|im_end|>")
TURN = ("<start_of_turn>", "<end_of_turn>")

EXPECTED = [
    (
        bound(CHATML, *IM),
        [ASKED, BIRD],
        f"<|im_start|>system\nHelp.<|im_end|>\n<|im_start|>user\n{IMAGE}\nWhat is this?<|im_end|>\n"
        "<|im_start|>assistant\n⟦A bird.<|im_end|>⟧\n",
    ),
    (
        bound(CHATML, *IM, system="Look."),
        [TWO, BOTH, COLOUR, RED],
        f"<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n{IMAGE} and {IMAGE}: compare.<|im_end|>\n"
        "<|im_start|>assistant\n⟦Both are birds.<|im_end|>⟧\n<|im_start|>user\nWhich colour?<|im_end|>\n"
        "<|im_start|>assistant\n⟦Red.<|im_end|>⟧\n",
    ),
    (
        bound(LLAMA_2),
        [BRIEF, ASKED, BIRD, COLOUR, RED],
        f"<bos>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{IMAGE}\nWhat is this? [/INST]⟦ A bird. <eos>⟧"
        "<bos>[INST] Which colour? [/INST]⟦ Red. <eos>⟧",
    ),
    (
        bound(GEMMA, *TURN),
        [Turn("user", "Hello"), Turn("assistant", "Hello!"), TWO, BOTH, COLOUR, RED],
        "<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n⟦Hello!<end_of_turn>⟧\n"
        f"<start_of_turn>user\n{IMAGE} and {IMAGE}: compare.<end_of_turn>\n"
        "<start_of_turn>model\n⟦Both are birds.<end_of_turn>⟧\n"
        "<start_of_turn>user\nWhich colour?<end_of_turn>\n<start_of_turn>model\n⟦Red.<end_of_turn>⟧\n",
    ),
    (
        bound(DATED),
        [ASKED, BIRD],
        f"<bos>[Today: 26 Jul 2024]\n[user]{IMAGE}\nWhat is this?<eos>[assistant]⟦A bird.<eos>⟧",
    ),
    (
        bound(THINKING, *IM),
        [ASKED, BIRD, COLOUR, RED],
        f"<|im_start|>user\n{IMAGE}\nWhat is this?<|im_end|>\n<|im_start|>assistant\n⟦A bird.<|im_end|>⟧\n"
        "<|im_start|>user\nWhich colour?<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nRed.<|im_end|>⟧\n",
    ),
]


@pytest.mark.parametrize(("template", "turns", "expected"), EXPECTED)
def test_text_and_spans(template, turns, expected):
    rendered = template.render(turns, prompt=False)
    text = rendered.text
    for span in reversed(rendered.spans):
        text = f"{text[: span.start]}⟦{text[span.start : span.end]}⟧{text[span.end :]}"
    assert text == expected
    assert len(rendered.images) == expected.count(IMAGE)
    assert not rendered.end
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    for number, span in zip(answers, rendered.spans, strict=True):
        assert template.render(turns[:number], prompt=True).text == rendered.text[: span.start]


@pytest.mark.parametrize("template", [CHATML, LLAMA_2, GEMMA, THINKING, TOOLS])
def test_text_is_what_transformers_renders(template):
    own = tokenizer(template, *IM, *TURN)
    messages = [
        {"role": "user", "content": "What?"},
        {"role": "assistant", "content": "A bird: <é> & 'é'."},
        {"role": "user", "content": "Sure?"},
    ]
    turns = [Turn(message["role"], message["content"]) for message in messages]
    made = OwnChatTemplate(OwnChatConfig()).bind(own)
    assert made.render(turns[:2], prompt=False).text == own.apply_chat_template(messages[:2], tokenize=False)
    assert made.render(turns, prompt=True).text == own.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_answers_that_repeat_what_was_asked_are_found_in_their_own_place():
    # A search for the answer would find the question.
    rendered = bound(CHATML, *IM).render([Turn("user", "user"), Turn("assistant", "user")], prompt=False)
    (span,) = rendered.spans
    assert rendered.text[: span.start].endswith("<|im_start|>assistant\n")
    assert rendered.text[span.start : span.end] == "user<|im_end|>"


# Each plants one fault, and what is said of it.
BODY = "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
REFUSED = [
    (HEAD + BODY.replace("m.content", "m.content | upper"), "changes, repeats, moves or leaves out the words of a turn (of 2"),
    (HEAD + BODY.replace("m.content", "m.content[:2]"), "decides by the words of a turn, or takes some of them away"),
    (
        HEAD + BODY.replace("m.content", "(m.content | length) ~ m.content"),
        "decides by the words of a turn, or takes some of them away",
    ),
    (
        HEAD + BODY.replace("m.content", "m.content ~ m.content"),
        "the words of a turn (of 2 turns, 4 are in the text)",
    ),
    (
        "{% for m in messages[-1:] %}<|im_start|>{{ m.role }}\n" + BODY,
        "the words of a turn (of 2 turns, 1 are in the text)",
    ),
    ("{% for m in messages | reverse %}<|im_start|>{{ m.role }}\n" + BODY, "changes, repeats, moves or leaves out the words"),
    (HEAD + BODY.replace("<|im_start|>assistant\n{% endif", "<|im_start|>model\n{% endif"), "the prompt of turn 1 is not how"),
    (
        # Says otherwise how a conversation begins once it is longer.
        "{{ messages | length }}" + HEAD + BODY,
        "the prompt of turn 1 is not how the whole conversation begins: from character 0 it has '1<|im_start|>user",
    ),
    (HEAD + BODY.replace("<|im_end|>\n", "\n"), "behind the answer of turn 1 stands '\\n', which begins with no special token"),
    (
        HEAD + BODY.replace("<|im_end|>", "{{ eos_token if loop.index > 2 else '<|im_end|>' }}"),
        "answers end with different tokens",
    ),
    ("{{ raise_exception('never') }}", "refuses the turns user, assistant (TemplateError: never)"),
    ("{{ messages.nothing.at_all }}", "refuses the turns user, assistant (UndefinedError"),
    ("{{ ''.__class__.__mro__ }}", "refuses the turns user, assistant (SecurityError"),
    ("{% for m in messages %", "is no Jinja template (TemplateSyntaxError"),
    ("{{ 'x' * 999999 }}{{ 'x' * 999999 }}" + HEAD + BODY, "; 1,000,000 beside the words may be"),
    ("{{ 'x' * 3000000000 }}" + HEAD + BODY, "SecurityError: a product of 1 and 3000000000 is not allowed"),
    ("{{ 9 ** 9 ** 9 ** 9 }}" + HEAD + BODY, "SecurityError: `**` on int is not allowed in a chat template"),
    ("{{ '%0999999999d' % 1 }}" + HEAD + BODY, "SecurityError: `%` on str is not allowed"),
    ("{{ 'x'.center(999999999) }}" + HEAD + BODY, "SecurityError"),
    ("{{ '{:999999999}'.format(1) }}" + HEAD + BODY, "SecurityError"),
    ("{{ [1] | batch(999999999, 'x') | list }}" + HEAD + BODY, "No filter named 'batch'"),
    ("{{ [1] | slice(999999999) | list }}" + HEAD + BODY, "No filter named 'slice'"),
    ("{{ 'x' | center(999999999) }}" + HEAD + BODY, "No filter named 'center'"),
    ("{{ range(9999999) | list }}" + HEAD + BODY, "Range too big"),
    ("x" * 100_001, "has 100,001 characters, more than the 100,000 allowed"),
]


@pytest.mark.parametrize(("template", "reason"), REFUSED, ids=[reason[:30] for _, reason in REFUSED])
def test_templates_that_would_make_spans_a_guess_are_refused(template, reason):
    with pytest.raises(AssemblyError) as caught:
        bound(template, *IM)
    assert reason in str(caught.value)


def test_templates_that_take_too_long_are_refused(monkeypatch):
    monkeypatch.setattr(vlmzoo_tasks.own_chat, "SECONDS", 0.2)
    forever = "{% for a in range(99999) %}{% for b in range(200) %}{% endfor %}{% endfor %}"
    with pytest.raises(AssemblyError, match=r"took more than 0.2 seconds for two short conversations"):
        bound(forever)


def test_tokenizers_without_one_template_are_refused():
    with pytest.raises(AssemblyError, match="the tokenizer has no chat template: name a style instead"):
        OwnChatTemplate(OwnChatConfig()).bind(tokenizer(None))
    with pytest.raises(AssemblyError, match="the tokenizer has 2 chat templates, none of them chosen"):
        OwnChatTemplate(OwnChatConfig()).bind(tokenizer({"a": CHATML, "b": CHATML}))


def test_rows_that_the_template_refuses_are_data_errors():
    with pytest.raises(DataError, match=r"refuses the turns system, user, assistant \(TemplateError: System role not supp"):
        bound(GEMMA, *TURN).render([BRIEF, ASKED, BIRD], prompt=False)
    with pytest.raises(DataError, match=r"contains U\+F8F00 or U\+F8F01"):
        bound(CHATML, *IM).render([Turn("user", "a\U000f8f00b"), BIRD], prompt=False)
    with pytest.raises(DataError, match="cannot write these turns"):
        bound(CHATML, *IM).render([BIRD], prompt=False)
    # Decides by a word that only this row has.
    chosen = HEAD + "{{ 'no' if m.content == 'secret' else m.content }}" + BODY.removeprefix("{{ m.content }}")
    template = bound(chosen, *IM)
    assert len(template.render([ASKED, BIRD], prompt=False).spans) == 1
    with pytest.raises(DataError, match="decides by the words of a turn"):
        template.render([ASKED, Turn("assistant", "secret")], prompt=False)
    # Ends other than the trials did.
    ends = HEAD + BODY.replace("<|im_end|>", "{{ eos_token if 'stop' in m.content else '<|im_end|>' }}")
    with pytest.raises(DataError, match=r"an answer ends with `stop<eos>` and not with `<\|im_end\|>`"):
        bound(ends, *IM).render([ASKED, Turn("assistant", "stop")], prompt=False)
    with pytest.raises(DataError, match="writes 2 `<image>`, other than the turns have"):
        bound(HEAD + BODY.replace("m.content", "m.content | replace('eye', '<image>')"), *IM).render(
            [Turn("user", f"{IMAGE} eye"), BIRD], prompt=False
        )


def test_options_and_binding():
    with pytest.raises(ConfigError, match="must not contain `<image>`"):
        OwnChatTemplate(OwnChatConfig(system=IMAGE))
    with pytest.raises(AssemblyError, match=r"template `tokenizer`: `system` contains the special token `<\|im_end\|>`: take"):
        bound(CHATML, *IM, system="Look.<|im_end|>")
    with pytest.raises(ValueError, match="has no words: write some, or `null` where the system says nothing"):
        OwnChatConfig(system=" \n")
    with pytest.raises(PluginError, match="must be bound to a tokenizer before it renders"):
        OwnChatTemplate(OwnChatConfig()).render([ASKED, BIRD], prompt=False)
