"""Where a tokenizer's chat template runs: Jinja's immutable sandbox, with what transformers gives templates and less power.

A template comes with a download. It sees the messages and the names of the special tokens, and cannot reach Python; operators
and filters that take a size, and so make gigabytes of a few characters, are refused, and what day it is is the same forever.
It is no wall against a template that fills the memory step by step: that ends the process, as a model too large would.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Turn

DATE = datetime.datetime(2024, 7, 26, tzinfo=datetime.UTC)
"""What day it is for templates that ask: the same text in training and ever after (Llama 3's fall back to this day)."""

LONGEST = 1_000_000
"""Characters that a template may write beside the words of the turns, or make by one operator."""


class ChatSandbox:
    """One chat template, compiled once. Raises `DataError` where it is none."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        try:
            self._template: Template = _environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise DataError(f"the tokenizer's chat template is no Jinja template ({_brief(error)})") from error

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        """The turns as the template writes them. Raises `DataError` where it refuses them, or writes too much."""
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        variables = {**self._special_tokens, "tools": None, "documents": None}
        try:
            text = self._template.render(messages=messages, add_generation_prompt=prompt, **variables)
        except Exception as error:  # foreign code: a template may fail in any way
            roles = ", ".join(turn.role for turn in turns)
            raise DataError(f"the tokenizer's chat template refuses the turns {roles} ({_brief(error)})") from error
        if len(text) > LONGEST + sum(len(turn.text) for turn in turns):
            raise DataError(
                f"the tokenizer's chat template writes {len(text):,} characters; {LONGEST:,} beside the words may be"
            )
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with operators that cannot make more than `LONGEST` characters of little."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Python's operators on numbers; on texts and lists only small products."""
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"`{operator}` on {type(left).__name__} is not allowed in a chat template")
        for many, times in ((left, right), (right, left)):
            if operator == "*" and hasattr(many, "__len__") and isinstance(times, int) and len(many) * times > LONGEST:
                raise SecurityError(f"a product of {len(many)} and {times} is not allowed in a chat template")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Not the methods that take a width."""
        if isinstance(obj, str) and attr in ("center", "ljust", "rjust", "zfill", "format", "format_map", "expandtabs"):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format`, not even in a sandbox: its fields take a width."""


class _Generation(Extension):
    """`{% generation %}` marks answers for transformers; here its block is its body."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own kind of class attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes between the tags."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _environment() -> _Environment:
    """What transformers' templates expect to find (`raise_exception`, `strftime_now`, `tojson`, `break`)."""
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    for name in ("batch", "center", "format", "indent", "slice", "wordwrap"):
        del environment.filters[name]
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise, strftime_now=DATE.strftime)
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    return environment


def _tojson(value: Any, indent: int | None = None) -> str:
    """JSON as transformers writes it: no HTML escapes."""
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else min(indent, 8))


def _raise(message: str) -> None:
    raise TemplateError(message)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
