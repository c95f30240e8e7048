"""Every template that ships, bound to tokenizers that have the tokens of all styles."""

from functools import cache

from tokenizer_kinds import made

from vlmzoo_registry import default_catalogue
from vlmzoo_registry.tasks import IMAGE, Template
from vlmzoo_tasks.plugin import CHAT_STYLES

COMPONENTS = {
    component.spec.name: component
    for component in default_catalogue().components()
    if component.spec.kind == "template" and component.plugin == "tasks"
}
ONE_EXCHANGE = ("plain", "v0_plain", "pair")
"""Templates of one question and one answer."""

OWN = "tokenizer"
"""The one that writes what the tokenizer says: here ChatML."""

TALKS = [spec.name for spec in CHAT_STYLES]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(name: str, **options) -> Template:
    """The template of this name, not bound to a tokenizer."""
    component = COMPONENTS[name]
    return component.load_factory()(component.load_config()(**options))


CONTROL = tuple(sorted({token for name in TALKS for token in template(name).control_tokens}))
"""The special tokens of all styles."""

MARKS = ("###", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<Image>", "</Image>", IMAGE)
SPECIAL = ("<s>", "</s>", "<pad>", "<bos>", "<eos>", "<unk>", "[CLS]", "[SEP]", "[UNK]")


def spoken(text: str) -> str:
    """A text that data may hold: without special tokens, the marks of styles, and line breaks at its ends."""
    for token in (*MARKS, *CONTROL, *SPECIAL):
        text = text.replace(token, " ")
    return text.strip()


@cache
def bound_template(kind: str, name: str) -> Template:
    """Without a system, but for those that know none."""
    tokenizer = made(kind, CONTROL)
    if name == OWN:
        tokenizer.chat_template = CHATML
    return template(name, **({} if name in ONE_EXCHANGE else {"system": None})).bind(tokenizer)
