"""A chat style as data: what stands before and behind each turn's words, and one template that writes every style.

Spans are noted while the text is put together; nothing is searched for afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import AssemblyError, ConfigError, DataError, PluginError
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Template, Turn, marker_positions


@dataclass(frozen=True)
class Around:
    """What stands before and behind the words of a turn, or an image."""

    before: str
    after: str


@dataclass(frozen=True)
class Answer:
    """What stands around an answer.

    A prompt ends with `before`; `lead` comes between it and the words, and is learnt with them: most tokenizers make one token
    of a space and the word behind it, so a prompt that ended with the space would end within a token. `tail` and then `stop`
    end the answer and are learnt; a `stop` of None is the tokenizer's own end token. A style that ends its answers with words
    names `stop_words` instead. `after` is not learnt, and stands before the next turn only.
    """

    before: str
    lead: str = ""
    tail: str = ""
    stop: str | None = None
    stop_words: str | None = None
    after: str = ""


@dataclass(frozen=True)
class ChatStyle:
    """How a family of models writes a conversation.

    `control` are the special tokens among what it writes, `marks` the words among it that no turn may contain, because they
    would pass for the style's own. With `system_in_user` the system's words stand within the user's first turn, before what
    the user says. `start` stands once, before the first exchange. `opening` opens each; None is the tokenizer's own begin
    token, or nothing where it has none.
    """

    name: str
    user: Around
    assistant: Answer
    system: Around
    system_in_user: bool = False
    start: str = ""
    opening: str | None = ""
    image: Around = Around("", "")
    control: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


class StyledTemplate(Template):
    """Writes conversations in a `ChatStyle`: an optional system's turn, then user and assistant in turns.

    `system` is what the system says where the data says nothing; None leaves it out. All words are stripped, so that a token
    never spans the border of a turn.
    """

    def __init__(self, style: ChatStyle, system: str | None) -> None:
        refuse_images(system)
        _refuse_marks(style, system)
        self._style = style
        self._system = system

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> "StyledTemplate":
        """The template with the tokenizer's begin and end tokens where the style has none of its own.

        Raises `AssemblyError` where the tokenizer lacks a token of the style, has no end token, or makes one token of the end
        of a prompt and the start of an answer.
        """
        name, opening, answer = self._style.name, self._style.opening, self._style.assistant
        reasons = missing_tokens(self.control_tokens, tokenizer)
        if reasons:
            raise AssemblyError(
                f"template `{name}` cannot be used with this tokenizer: generation could not stop where training did", reasons
            )
        if answer.stop is None and answer.stop_words is None:
            answer = replace(answer, stop=end_token(name, tokenizer))
        if opening is None:
            opening = str(tokenizer.bos_token or "")
        refuse_forgery(name, self._system, tokenizer)
        _refuse_blurred_border(self._style, tokenizer)
        return StyledTemplate(replace(self._style, assistant=answer, opening=opening), self._system)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Those of the style."""
        return self._style.control

    @property
    def stop(self) -> str | None:
        """The token that ends an answer; None until the template is bound, where it is the tokenizer's, and where words do."""
        return self._style.assistant.stop

    @property
    def stop_words(self) -> str | None:
        """The words that end an answer, where no token does."""
        return self._style.assistant.stop_words

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """The conversation with a span over each answer and its end.

        Raises `DataError` for turns out of order, and for words that would pass for the style's own.
        """
        style, answer = self._style, self._style.assistant
        stop = answer.stop_words or answer.stop
        if stop is None or style.opening is None:
            raise PluginError(f"template `{style.name}` must be bound to a tokenizer before it renders: call `bind`")
        turns = check_turns(style.name, turns, prompt=prompt, forged=partial(_forged, style))
        if self._system is not None and turns[0].role != "system":
            turns = [Turn("system", self._system), *turns]
        text, asked = "", ""
        spans: list[Span] = []
        for number, turn in enumerate(turns):
            words = turn.text.strip()
            if turn.role == "system" and style.system_in_user:
                asked = style.system.before + words + style.system.after
            elif turn.role == "system":
                text += style.system.before + words + style.system.after
            elif turn.role == "user":
                text += "" if spans else style.start
                asked += words.replace(IMAGE, style.image.before + IMAGE + style.image.after)
                text += style.opening + style.user.before + asked + style.user.after
                asked = ""
            else:
                text += answer.before
                start = len(text)
                text += answer.lead + words + answer.tail + stop
                spans.append(Span(start, len(text)))
                if number + 1 < len(turns):
                    text += answer.after
        if prompt:
            text += answer.before
        return Rendered(text=text, images=marker_positions(text), spans=() if prompt else tuple(spans), end=False)


def _refuse_blurred_border(style: ChatStyle, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `AssemblyError` where the tokens at the end of a prompt are others once an answer follows.

    GPT-2's cut makes one token of two line breaks, and two of them where a word follows.
    """
    before = f"x{style.user.after}{style.assistant.before}"
    prompt, followed = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (before, f"{before}{style.assistant.lead}x")
    )
    if followed[: len(prompt)] != prompt:
        place = next(place for place, (a, b) in enumerate(zip(prompt, followed, strict=False)) if a != b)
        alone, instead = (tokenizer.convert_ids_to_tokens(ids[place : place + 2]) for ids in (prompt, followed))
        raise AssemblyError(
            f"template `{style.name}` cannot be used with this tokenizer: a prompt ends in {alone}, which becomes {instead} "
            "when an answer follows, so generation would start from what training never saw: use another style"
        )


def _forged(style: ChatStyle, turn: Turn) -> list[str]:
    """Which words of a turn would pass for the style's own; what the system says may explain how images are marked."""
    marks = style.marks if turn.role == "system" else (*style.marks, style.image.before, style.image.after)
    return [mark for mark in marks if mark and mark in turn.text.strip()]


def _refuse_marks(style: ChatStyle, system: str | None) -> None:
    """Raise `ConfigError` where what the system says contains words of the style."""
    forged = _forged(style, Turn("system", system or ""))
    if forged:
        raise ConfigError(f"`system` contains `{_shown(forged[0])}`, with which `{style.name}` marks turns: take it out")


def _shown(words: str) -> str:
    return words.replace("\n", "\\n")


def refuse_images(system: str | None) -> None:
    """Raise `ConfigError` where what the system says marks an image."""
    if system is not None and IMAGE in system:
        raise ConfigError(f"`system` (={system!r:.60}) must not contain `{IMAGE}`: images stand in what the user says")


def refuse_forgery(name: str, system: str | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `AssemblyError` where what the system says contains a special token, which is the template's to write."""
    special = sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    forged = [token for token in special if system is not None and token in system]
    if forged:
        raise AssemblyError(f"template `{name}`: `system` contains the special token `{forged[0]}`: take it out")


def check_turns(
    name: str, turns: Sequence[Turn], *, prompt: bool, forged: Callable[[Turn], list[str]] | None = None
) -> list[Turn]:
    """The turns, in an order that a chat style can write: an optional system, then user and assistant in turns.

    A prompt ends with the user. `forged` says which words of a turn would pass for the style's own. Raises `DataError` with
    every reason why they cannot be written.
    """
    roles = [turn.role for turn in turns]
    talk = roles[1:] if roles[:1] == ["system"] else roles
    wanted = [("user", "assistant")[place % 2] for place in range(len(talk))]
    reasons = []
    if not talk or talk != wanted or (talk[-1] == "user") != prompt:
        ends = "ends with the user" if prompt else "ends with the assistant"
        reasons.append(
            f"it writes a system's turn or none, then user and assistant in turns, and {ends} "
            f"(the turns are {', '.join(roles) or 'none'})"
        )
    for number, turn in enumerate(turns):
        if not turn.text.strip():
            reasons.append(f"turn {number} ({turn.role}) has no words: fill it, or drop the row")
        if turn.role != "user" and IMAGE in turn.text:
            reasons.append(f"turn {number} ({turn.role}) contains `{IMAGE}`: images stand in what the user says")
        reasons += [
            f"turn {number} ({turn.role}) contains `{_shown(mark)}`, which this style writes itself: take it out, drop the "
            "row, or use another style (`vlmzoo list --kind template`)"
            for mark in (forged(turn) if forged else ())
        ]
    if reasons:
        raise DataError(f"template `{name}` cannot write these turns:", reasons)
    return list(turns)


def missing_tokens(tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Why the tokenizer cannot write these as one special token each; nothing where it can."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return [
        f"the tokenizer has no special token `{token}` (it would cut it into {len(tokenizer.tokenize(token))} pieces): use a "
        "style of words (`vicuna_v1`, which ends answers with the tokenizer's own end token), or a model that has it"
        for token in tokens
        if token not in special
    ]


def end_token(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's own end token. Raises `AssemblyError` where it has none."""
    if tokenizer.eos_token is None:
        raise AssemblyError(
            f"template `{name}` ends answers with the tokenizer's end token (`eos_token`), and this one has none: name one"
        )
    return str(tokenizer.eos_token)
