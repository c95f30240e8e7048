"""Masked language modelling, with next-sentence prediction where it is asked for (BERT, arXiv:1810.04805, section 3.1).

Of the tokens that are chosen most are hidden behind the mask token, some become others and some stay, so that a model learns
to doubt what it reads.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Int
from torch import Generator, Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import AssemblyError, DataError
from vlmzoo_registry.tasks import Objective, Reading, Rendered, Sample, Template
from vlmzoo_registry.token_row import IGNORE, TokenRow
from vlmzoo_tasks.all_text import all_text, special_ids
from vlmzoo_tasks.text_config import MaskedConfig

HIDDEN = 0.8
"""The share of the chosen tokens that the mask token hides."""

REPLACED = 0.1
"""The share that becomes a token drawn from the whole vocabulary; what is left stays as it is."""


@dataclass(frozen=True)
class _Vocabulary:
    mask: int
    separator: int | None
    ordinary: Int[Tensor, " n"]
    special: frozenset[int]


class MaskedObjective(Objective):
    """Say, at each chosen token, which one stood there; all tokens see each other.

    Images are in the sequence and are seen, never chosen (VisualBERT, arXiv:1908.03557). With `next_sentence` a sample is two
    texts and a label.
    """

    def __init__(self, config: MaskedConfig, vocabulary: _Vocabulary | None = None) -> None:
        self._config = config
        self._vocabulary = vocabulary

    @property
    def attention(self) -> Literal["full"]:
        """All see all; each position says what stood at it."""
        return "full"

    @property
    def needs(self) -> frozenset[Reading]:
        """Segments and a sentence head for next-sentence prediction."""
        return frozenset({"segment_ids", "sentence_labels"}) if self._config.next_sentence else frozenset()

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> "MaskedObjective":
        """The objective with the tokenizer's mask token. Raises `AssemblyError` where it lacks a token that is needed."""
        reasons = []
        if tokenizer.mask_token_id is None:
            reasons.append("it has no mask token (`mask_token`), behind which tokens are hidden")
        if self._config.next_sentence and tokenizer.sep_token_id is None:
            reasons.append("it has no separator (`sep_token`), which stands between two texts: leave `next_sentence` out")
        if reasons:
            raise AssemblyError("objective `masked` cannot be used with this tokenizer", reasons)
        special = special_ids(tokenizer)
        ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))
        vocabulary = _Vocabulary(tokenizer.mask_token_id, tokenizer.sep_token_id, ordinary, special)
        return MaskedObjective(self._config, vocabulary)

    def render(self, sample: Sample, template: Template) -> Rendered:
        """The sample in the style of `template`, with one span over all of it.

        Raises `DataError` naming `sample.source` where the assistant says nothing, and where a label is needed and missing.
        """
        if self._config.next_sentence and sample.label not in (0, 1):
            raise DataError(
                f"{sample.source}: `next_sentence` needs a label of 0 (the second text follows the first) or 1 (is "
                f"{sample.label}): use a dataset of pairs, such as `sentence_pairs`, or leave `next_sentence` out"
            )
        return all_text(sample, template)

    def corrupt(self, row: TokenRow, generator: Generator) -> TokenRow:
        """Choose `share` of the tokens, at least one, none of them special, and hide, replace or keep each.

        Raises `DataError` for a row of special tokens alone, and for a row of one text where there should be two.
        """
        words = self._vocabulary
        assert words is not None, "`bind` comes before `corrupt`"
        open_places = [
            place
            for place, (token, label) in enumerate(zip(row.input_ids.tolist(), row.labels.tolist(), strict=True))
            if label != IGNORE and token not in words.special
        ]
        if not open_places:
            raise DataError("none of its tokens can be hidden: it has no words besides special tokens; drop the row")
        count = max(1, int(self._config.share * len(open_places) + 0.5))
        order = torch.randperm(len(open_places), generator=generator)[:count]
        chosen = torch.tensor(open_places)[order.sort().values]  # [n]
        fate = torch.rand(count, generator=generator)  # [n]
        drawn = words.ordinary[torch.randint(len(words.ordinary), (count,), generator=generator)]  # [n]
        ids, labels = row.input_ids.clone(), torch.full_like(row.labels, IGNORE)
        labels[chosen] = row.input_ids[chosen]
        ids[chosen] = torch.where(fate < HIDDEN, words.mask, torch.where(fate < HIDDEN + REPLACED, drawn, ids[chosen]))
        segments = self._segments(row.input_ids) if self._config.next_sentence else None
        return replace(row, input_ids=ids, labels=labels, segment_ids=segments)

    def _segments(self, ids: Int[Tensor, " S"]) -> Int[Tensor, " S"]:
        """0 up to the first separator, that included, 1 behind it."""
        assert self._vocabulary is not None
        separators = (ids == self._vocabulary.separator).long()
        segments = ((separators.cumsum(0) - separators) > 0).long()
        if not segments.any():
            raise DataError("it is one text, and `next_sentence` needs two with a separator between: use the template `pair`")
        return segments
