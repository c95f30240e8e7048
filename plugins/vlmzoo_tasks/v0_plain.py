"""The style without roles to the letter of LLaVA's code (`plain` and `v0_plain` there): image, caption, line break."""

from collections.abc import Sequence

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import IMAGE, Rendered, Span, Template, Turn, marker_positions
from vlmzoo_tasks.plain import check_exchange

END = "\n"


class V0PlainTemplate(Template):
    """Renders one exchange: the user's images without the user's words, the caption, and a line break, which is learnt.

    LLaVA-1.5's first stage (arXiv:2310.03744) was trained like this: its data has prompts, its code drops them. `plain` keeps
    them, and ends with the tokenizer's end token.
    """

    def __init__(self, config: NoOptions) -> None:
        pass

    @property
    def stop_words(self) -> str:
        """The line break."""
        return END

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """An optional user's turn, and the assistant's unless `prompt`.

        Raises `DataError` for other turns, and for a caption of several lines or of no words.
        """
        check_exchange("v0_plain", turns, prompt=prompt)
        asked = IMAGE * sum(turn.text.count(IMAGE) for turn in turns if turn.role == "user")
        if prompt:
            return Rendered(text=asked, images=marker_positions(asked), spans=(), end=False)
        caption = turns[-1].text.strip()
        if not caption or END in caption:
            reason = "has several lines, and a line break ends it" if caption else "has no words"
            raise DataError(f"template `v0_plain`: the caption {reason}: drop the row, or use `plain`")
        text = asked + caption + END
        return Rendered(text=text, images=marker_positions(text), spans=(Span(len(asked), len(text)),), end=False)
