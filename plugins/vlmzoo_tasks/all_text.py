"""A sample of which everything is learnt, not only what the assistant says: what objectives over plain text share."""

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Rendered, Sample, Span, Template


def all_text(sample: Sample, template: Template) -> Rendered:
    """The sample in the style of `template`, with one span over all of it; images are never learnt.

    Raises `DataError` naming `sample.source` where the template refuses the turns or the assistant says nothing.
    """
    try:
        rendered = template.render(sample.turns, prompt=False)
    except DataError as error:
        raise DataError(f"{sample.source}: {error.message}", error.reasons) from error
    if not rendered.spans:
        raise DataError(
            f"{sample.source}: the assistant says nothing, so nothing is supervised: add its words, or drop the row"
        )
    return replace(rendered, spans=(Span(0, len(rendered.text)),))


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of all that is no text: it is neither hidden nor put in the place of what is."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset({*tokenizer.all_special_ids, *added})
