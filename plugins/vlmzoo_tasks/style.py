"""A chat style as data: what stands before and behind each turn's words, and one template that writes them all.

Spans are noted while the text is put together; nothing is searched for afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import AssemblyError, ConfigError, DataError, PluginError
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Template, Turn, marker_positions


@dataclass(frozen=True)
class Around:
    """What stands before and behind the words of a turn."""

    before: str
    after: str


@dataclass(frozen=True)
class Answer:
    """What stands around an answer.

    A prompt ends with `before`; `lead` comes between it and the words, and is learnt with them: most tokenizers make one token
    of a space and the word behind it, so a prompt that ended with the space would end within a token. `stop` ends the answer
    and is learnt; None is the tokenizer's own end token. `after` is not learnt, and stands before the next turn only.
    """

    before: str
    lead: str
    stop: str | None
    after: str


@dataclass(frozen=True)
class ChatStyle:
    """How a family of models writes a conversation; `control` are the special tokens among what it writes."""

    name: str
    system: Around
    user: Around
    assistant: Answer
    control: tuple[str, ...] = ()


class StyledTemplate(Template):
    """Writes conversations in a `ChatStyle`: an optional system's turn, then user and assistant in turns.

    `system` is what the system says where the data says nothing; None leaves it out. All words are stripped, so that a token
    never spans the border of a turn.
    """

    def __init__(self, style: ChatStyle, system: str | None) -> None:
        refuse_images(system)
        self._style = style
        self._system = system

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> "StyledTemplate":
        """The template with the tokenizer's end token where the style has no token of its own.

        Raises `AssemblyError` where the tokenizer lacks a token of the style, or has no end token.
        """
        name, stop = self._style.name, self._style.assistant.stop
        reasons = missing_tokens(self.control_tokens, tokenizer)
        if reasons:
            raise AssemblyError(
                f"template `{name}` cannot be used with this tokenizer: generation could not stop where training did", reasons
            )
        if stop is None:
            stop = end_token(name, tokenizer)
        refuse_forgery(name, self._system, tokenizer)
        return StyledTemplate(replace(self._style, assistant=replace(self._style.assistant, stop=stop)), self._system)

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Those of the style."""
        return self._style.control

    @property
    def stop(self) -> str | None:
        """The token that ends an answer; None until the template is bound, where it is the tokenizer's."""
        return self._style.assistant.stop

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """The conversation with a span over each answer and its end token. Raises `DataError` for turns out of order."""
        style = self._style
        stop = style.assistant.stop
        if stop is None:
            raise PluginError(f"template `{style.name}` must be bound to a tokenizer before it renders: call `bind`")
        turns = check_turns(style.name, turns, prompt=prompt)
        if self._system is not None and turns[0].role != "system":
            turns = [Turn("system", self._system), *turns]
        text, spans = "", []
        for number, turn in enumerate(turns):
            words = turn.text.strip()
            if turn.role == "system":
                text += style.system.before + words + style.system.after
            elif turn.role == "user":
                text += style.user.before + words + style.user.after
            else:
                text += style.assistant.before
                start = len(text)
                text += style.assistant.lead + words + stop
                spans.append(Span(start, len(text)))
                if number + 1 < len(turns):
                    text += style.assistant.after
        if prompt:
            text += style.assistant.before
        return Rendered(text=text, images=marker_positions(text), spans=() if prompt else tuple(spans), end=False)


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


def check_turns(name: str, turns: Sequence[Turn], *, prompt: bool) -> list[Turn]:
    """The turns, in an order that a chat style can write: an optional system, then user and assistant in turns.

    A prompt ends with the user. Raises `DataError` with every reason why they cannot be written.
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
