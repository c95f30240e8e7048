"""The style without roles of LLaVA's first stage (arXiv:2304.08485, 4.2; `plain` in its code): images, then the caption."""

from collections.abc import Sequence

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Template, Turn, marker_positions


class PlainTemplate(Template):
    """Renders one exchange: `<image>` and the answer right behind it.

    A user's turn of nothing but image markers leaves these alone, with no space between. Other words of the user are kept
    where they stand (LLaVA's code drops them), and a line break parts them from the answer, unless an image does. The answer
    is stripped, so that no token can span the border: what comes before it has the same ids with and without it.
    """

    def __init__(self, config: NoOptions) -> None:
        pass

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """An optional user's turn, and the assistant's unless `prompt`.

        Raises `DataError` for other turns.
        """
        check_exchange("plain", turns, prompt=prompt)
        asked = _question(turns[0].text) if turns and turns[0].role == "user" else ""
        answer = "" if prompt else turns[-1].text.strip()
        spans = (Span(len(asked), len(asked) + len(answer)),) if answer else ()
        text = asked + answer
        return Rendered(text=text, images=marker_positions(text), spans=spans, end=not prompt)


def check_exchange(name: str, turns: Sequence[Turn], *, prompt: bool) -> None:
    """Raise `DataError` where the turns are not one exchange at most."""
    roles = [turn.role for turn in turns]
    spoken = [] if prompt else ["assistant"]
    if roles not in (spoken, ["user", *spoken]):
        wanted = "at most one turn of the user" if prompt else "at most one turn of the user and then one of the assistant"
        raise DataError(f"template `{name}` renders {wanted} (the turns are {', '.join(roles) or 'none'}): use a chat template")


def _question(text: str) -> str:
    pieces = [piece.strip() for piece in text.split(IMAGE)]
    if not any(pieces):
        return IMAGE.join(pieces)
    text = text.strip()
    return text if text.endswith(IMAGE) else text + "\n"
