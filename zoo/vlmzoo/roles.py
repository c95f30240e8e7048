"""Who says which tokens of a row: for people who look at labels; what is learnt never hangs on it.

A template says where the answers are. Where the words of the others are is found by rendering once more with marks around
them, which works for every template that treats words as words, and is given up, not guessed, where one does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from transformers import PreTrainedTokenizerBase

from vlmzoo.data.encode import IN_IMAGE, IN_NONE, ImageToken, spans_of_tokens
from vlmzoo_registry import DataError, ImageText, Rendered, Span, Template, Turn
from vlmzoo_registry.tasks import IMAGE

Role = Literal["system", "user", "assistant", "image", "style", "prompt"]
"""Who says a token. "assistant": the template, as an answer with the token that ends it. "system" and "user": the data.
"style": the template, around their words. "prompt": one of these three, where they cannot be told apart.
"""

_OPEN, _CLOSE = "\U000f8f10", "\U000f8f11"


@dataclass(frozen=True)
class _Words:
    """Characters of a text, and who says them."""

    role: Role
    start: int
    end: int


def roles_of_tokens(
    rendered: Rendered,
    turns: Sequence[Turn],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    image_token: ImageToken,
    *,
    source: str,
    images: Sequence[ImageText],
) -> list[Role]:
    """For each id that `encode` gives for `rendered`, who says it; `turns` are those that the template wrote there.

    A token with characters of two is the first one's. Raises `DataError` as `encode` does.
    """
    said, others = _said(rendered.text, turns, template)
    words = Rendered(rendered.text, rendered.images, tuple(Span(each.start, each.end) for each in said), rendered.end)
    numbers = spans_of_tokens(words, tokenizer, image_token, source=source, images=images)
    named: dict[int, Role] = {IN_IMAGE: "image", IN_NONE: others} | {n: each.role for n, each in enumerate(said)}
    roles = [named[number] for number in numbers]
    if rendered.end:
        roles.append("assistant")
    return roles


def _said(text: str, turns: Sequence[Turn], template: Template) -> tuple[list[_Words], Role]:
    """Who says what in a text, in its order, and what the rest of it is."""
    plain = template.render(turns, prompt=False)
    if plain.text != text:  # an objective wrote something else
        return [], "prompt"
    answers = [_Words("assistant", span.start, span.end) for span in plain.spans]
    asked = _asked(text, turns, template)
    if asked is None:
        return answers, "prompt"
    said = sorted([*answers, *asked], key=lambda words: words.start)
    apart = all(one.end <= other.start for one, other in pairwise(said))
    return (said, "style") if apart else (answers, "prompt")


def _asked(text: str, turns: Sequence[Turn], template: Template) -> list[_Words] | None:
    """Where the words of system and user stand in a text, without the images among them; None where that is not known."""
    if any(mark in turn.text for turn in turns for mark in (_OPEN, _CLOSE)):
        return None
    marked, wanted = [], []
    for turn in turns:
        words = turn.text if turn.role == "assistant" else IMAGE.join(_marked(piece) for piece in turn.text.split(IMAGE))
        marked.append(Turn(turn.role, words))
        wanted += [(turn.role, piece.strip()) for piece in turn.text.split(IMAGE) if turn.role != "assistant" and piece.strip()]
    try:
        again = template.render(marked, prompt=False).text
    except DataError:
        return None
    if again.replace(_OPEN, "").replace(_CLOSE, "") != text:
        return None
    found: list[_Words] = []
    start = plain = 0
    for character in again:
        if character == _OPEN:
            start = plain
        elif character == _CLOSE:
            role = wanted[len(found)][0] if len(found) < len(wanted) else "user"
            found.append(_Words(role, start, plain))
        else:
            plain += 1
    # A style may leave the words of the user out (`v0_plain`); one that moves, repeats or changes them is not followed.
    kept = [(words.role, text[words.start : words.end]) for words in found]
    return found if kept in ([], wanted) else None


def _marked(piece: str) -> str:
    """A piece of a turn with marks around its words, inside the spaces that a template may take off."""
    words = piece.strip()
    if not words:
        return piece
    before, _, after = piece.partition(words)
    return f"{before}{_OPEN}{words}{_CLOSE}{after}"
