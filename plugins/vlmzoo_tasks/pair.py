"""The style of a pair of texts: the first, the tokenizer's separator, the second (BERT, arXiv:1810.04805, 3.2)."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.errors import AssemblyError, DataError, PluginError
from vlmzoo_registry.tasks import Rendered, Span, Template, Turn, marker_positions


class PairTemplate(Template):
    """What the user says (images among it), a separator, and what the assistant says, which the tokenizer's end token ends.

    Both are stripped. The separator is the tokenizer's own, or its end token where it has none.
    """

    def __init__(self, config: NoOptions, separator: str | None = None) -> None:
        self._config = config
        self._separator = separator

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> "PairTemplate":
        """The template with the tokenizer's separator. Raises `AssemblyError` where it has neither that nor an end token."""
        separator = tokenizer.sep_token or tokenizer.eos_token
        if separator is None:
            raise AssemblyError("template `pair` cannot be used: the tokenizer has no `sep_token` and no `eos_token`; name one")
        return PairTemplate(self._config, str(separator))

    def render(self, turns: Sequence[Turn], *, prompt: bool) -> Rendered:
        """A user's turn, and the assistant's unless `prompt`. Raises `DataError` for other turns."""
        if self._separator is None:
            raise PluginError("template `pair` must be bound to a tokenizer before it renders: call `bind`")
        roles = [turn.role for turn in turns]
        if roles != (["user"] if prompt else ["user", "assistant"]):
            raise DataError(
                "template `pair` renders one turn of the user and one of the assistant (the turns are "
                f"{', '.join(roles) or 'none'}): use a chat template"
            )
        before = turns[0].text.strip() + self._separator
        answer = "" if prompt else turns[1].text.strip()
        spans = (Span(len(before), len(before + answer)),) if answer else ()
        text = before + answer
        return Rendered(text=text, images=marker_positions(text), spans=spans, end=not prompt)
