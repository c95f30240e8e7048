"""The tokenizer's own chat template, with the places of the answers found exactly although the template is foreign code.

Each conversation is rendered twice, with and without unique marks around every turn's words; what the marks enclose is known,
and a template that treats marked words otherwise is refused with the reason instead of being guessed at.
"""

import threading
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import AssemblyError, DataError, PluginError
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Template, Turn, marker_positions
from vlmzoo_tasks.chat_sandbox import ChatSandbox
from vlmzoo_tasks.config import OwnChatConfig
from vlmzoo_tasks.style import check_turns, refuse_forgery, refuse_images

NAME = "tokenizer"
LONGEST_SOURCE, SECONDS = 100_000, 10.0
"""A template of more characters is refused, and one whose trial takes longer."""

# Code points that Unicode sets aside for private use: no text that can be read holds them, no template looks for them.
_OPEN, _CLOSE = "\U000f8f00", "\U000f8f01"

_TRIALS: tuple[tuple[Turn, ...], ...] = (
    (Turn("user", "one"), Turn("assistant", "two")),
    (Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"), Turn("assistant", "four")),
)
"""Rendered once when the template is bound, so that one that does not fit is refused before any data is read."""


class OwnChatTemplate(Template):
    """Renders the tokenizer's Jinja template in a sandbox, as transformers' `apply_chat_template` would.

    An answer is learnt from where its prompt ends to the end of the special token that follows its words.
    """

    def __init__(self, config: OwnChatConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        refuse_images(config.system)
        self._config = config
        self._sandbox = None if tokenizer is None else ChatSandbox(str(tokenizer.chat_template), tokenizer.special_tokens_map)
        tokens = () if tokenizer is None else tokenizer.added_tokens_decoder.values()
        self._special = sorted((token.content for token in tokens if token.special), key=len, reverse=True)
        self._stop = None if tokenizer is None else _within(SECONDS, self._find_stop)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> "OwnChatTemplate":
        """The template of this tokenizer, tried on two conversations.

        Raises `AssemblyError` where the tokenizer has no chat template, or one in which answers cannot be found exactly, and
        where the configured system's words contain one of its special tokens.
        """
        source = tokenizer.chat_template
        if not isinstance(source, str):
            what = "no chat template" if source is None else f"{len(source)} chat templates, none of them chosen"
            raise AssemblyError(
                f"template `{NAME}`: the tokenizer has {what}: name a style instead (`vlmzoo list --kind template`), or give "
                "its folder one `chat_template.jinja`"
            )
        if len(source) > LONGEST_SOURCE:
            raise AssemblyError(
                f"the tokenizer's chat template has {len(source):,} characters, more than the "
                f"{LONGEST_SOURCE:,} allowed: this is no template of conversations"
            )
        refuse_forgery(NAME, self._config.system, tokenizer)
        try:
            return OwnChatTemplate(self._config, tokenizer)
        except DataError as error:
            raise AssemblyError(
                f"template `{NAME}` cannot be used with this tokenizer: {error.message}", error.reasons
            ) from error

    @property
    def stop(self) -> str | None:
        """The special token that the tokenizer's template puts behind an answer."""
        return self._stop

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """The conversation as the tokenizer's template writes it.

        Raises `DataError` where the template refuses the turns, writes their words otherwise than they are, or writes the
        start of a conversation otherwise once it goes on: training would not see what generation starts from.
        """
        if self._sandbox is None:
            raise PluginError(f"template `{NAME}` must be bound to a tokenizer before it renders: call `bind`")
        turns = self._stripped(turns, prompt=prompt)
        text = self._text(turns, prompt=prompt)
        found = marker_positions(text)
        if len(found) != sum(turn.text.count(IMAGE) for turn in turns):
            raise DataError(f"the tokenizer's chat template writes {len(found)} `{IMAGE}`, other than the turns have")
        spans = [] if prompt else self._spans(turns, text)
        for span in spans:
            if self._stop is not None and not text[: span.end].endswith(self._stop):
                raise DataError(
                    f"template `{NAME}`: an answer ends with `{text[span.start : span.end][-20:]}` and not with "
                    f"`{self._stop}`, which ends others: generation would not stop where training does"
                )
        return Rendered(text=text, images=found, spans=tuple(spans), end=False)

    def _stripped(self, turns: Sequence[Turn], *, prompt: bool) -> list[Turn]:
        """The turns, the configured system first where they have none; stripped, as templates often do."""
        checked = [Turn(turn.role, turn.text.strip()) for turn in check_turns(NAME, turns, prompt=prompt)]
        if self._config.system is not None and checked[0].role != "system":
            checked.insert(0, Turn("system", self._config.system.strip()))
        return checked

    def _find_stop(self) -> str:
        stops = set()
        for trial in _TRIALS:
            turns = self._stripped(trial, prompt=False)
            text = self._text(turns, prompt=False)
            stops |= {
                next(token for token in self._special if text[: span.end].endswith(token)) for span in self._spans(turns, text)
            }
        if len(stops) != 1:
            raise DataError(f"template `{NAME}`: answers end with different tokens ({', '.join(sorted(stops))})")
        return stops.pop()

    def _spans(self, turns: Sequence[Turn], text: str) -> list[Span]:
        """What is learnt: from the end of each answer's prompt to the end of the special token behind its words."""
        spans = []
        for number, (start, end) in enumerate(self._words(turns, text)):
            if turns[number].role != "assistant":
                continue
            prompt = self._text(turns[:number], prompt=True)
            if not text.startswith(prompt) or len(prompt) > start:
                differs = next((place for place, (a, b) in enumerate(zip(text, prompt, strict=False)) if a != b), len(text))
                raise DataError(
                    f"template `{NAME}`: the prompt of turn {number} is not how the whole conversation begins: from character "
                    f"{differs} it has {prompt[differs : differs + 30]!r}, the conversation {text[differs : differs + 30]!r}. "
                    "Generation would start from what training never saw: use another template"
                )
            behind = text[end:]
            token = next((token for token in self._special if behind.lstrip().startswith(token)), None)
            if token is None:
                raise DataError(
                    f"template `{NAME}`: behind the answer of turn {number} stands {behind[:20]!r}, which begins with no "
                    "special token of the tokenizer, so no end could be learnt: use another template, such as `vicuna_v1`"
                )
            spans.append(Span(len(prompt), end + len(behind) - len(behind.lstrip()) + len(token)))
        return spans

    def _words(self, turns: Sequence[Turn], text: str) -> list[tuple[int, int]]:
        """Where the words of each turn stand in `text`, the rendering of the same turns without marks."""
        if any(mark in turn.text for turn in turns for mark in (_OPEN, _CLOSE)):
            raise DataError(f"template `{NAME}`: a turn contains U+F8F00 or U+F8F01, which mark its places: take them out")
        marked = self._text([Turn(turn.role, _OPEN + turn.text + _CLOSE) for turn in turns], prompt=False)
        if marked.replace(_OPEN, "").replace(_CLOSE, "") != text:
            raise DataError(
                "the tokenizer's chat template decides by the words of a turn, or takes some of them away, so "
                "their places are not known: use a named style (`vlmzoo list --kind template`)"
            )
        places, plain, opened = [], 0, 0
        for character in marked:
            if character == _OPEN:
                opened = plain
            elif character == _CLOSE:
                places.append((opened, plain))
            else:
                plain += 1
        if [text[start:end] for start, end in places] != [turn.text for turn in turns]:
            raise DataError(
                f"the tokenizer's chat template changes, repeats, moves or leaves out the words of a turn (of "
                f"{len(turns)} turns, {len(places)} are in the text): use a named style (`vlmzoo list --kind template`)"
            )
        return places

    def _text(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        assert self._sandbox is not None
        return self._sandbox.render(turns, prompt=prompt)


def _within(seconds: float, work: Callable[[], str]) -> str:
    """The result of `work`; `DataError` where it takes longer. It then goes on in a thread that ends with the process."""
    results: list[str] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise DataError(f"the tokenizer's chat template took more than {seconds:g} seconds for two short conversations")
    return results[0]
