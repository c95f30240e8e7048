"""The page of templates names each one and shows what it writes, character for character."""

import re

import pytest
from docs_pages import ROOT

from vlmzoo_registry import Component, default_catalogue
from vlmzoo_registry.byte_tokenizer import byte_tokenizer
from vlmzoo_registry.tasks import Template, Turn

PAGE = (ROOT / "docs" / "how-to" / "templates.md").read_text(encoding="utf-8")
TEMPLATES = {
    component.spec.name: component
    for component in default_catalogue().components()
    if component.spec.kind == "template" and component.plugin == "tasks"
}
SHOWN = re.compile(r"^### (?P<names>`[^\n]*`)\n\n```text\n(?P<text>.*?)\n```$", re.MULTILINE | re.DOTALL)
NOT_SHOWN = {"tokenizer", "pair"}  # the first writes what the tokenizer says, the second no conversations
EXCHANGE = [Turn("user", "<image>\nWhat is this?"), Turn("assistant", "A bird.")]


def template(component: Component) -> Template:
    config = component.load_config()
    options = {"system": "Look."} if "system" in config.model_fields else {}
    made: Template = component.load_factory()(config(**options))
    tokenizer = byte_tokenizer(("<s>", "</s>", *made.control_tokens))
    tokenizer.bos_token, tokenizer.eos_token = "<s>", "</s>"
    return made.bind(tokenizer)


def shown(name: str) -> str:
    """One exchange with what is learnt in brackets; the tokenizer's end token where it follows."""
    rendered = template(TEMPLATES[name]).render(EXCHANGE, prompt=False)
    text = rendered.text + ("</s>" if rendered.end else "")
    (span,) = rendered.spans
    end = len(text) if rendered.end else span.end
    return f"{text[: span.start]}⟦{text[span.start : end]}⟧{text[end:]}"


def sections() -> dict[str, str]:
    """What the page shows, by the names above it."""
    found = {}
    for match in SHOWN.finditer(PAGE):
        for name in re.findall(r"`([^`]+)`", match["names"]):
            assert name not in found, name
            found[name] = match["text"]
    return found


def test_every_template_stands_in_the_table() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|", PAGE, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(TEMPLATES)


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - NOT_SHOWN))
def test_the_page_shows_what_it_writes(name: str) -> None:
    assert sections()[name] == shown(name)


def test_the_page_shows_nothing_else() -> None:
    assert set(sections()) == set(TEMPLATES) - NOT_SHOWN
