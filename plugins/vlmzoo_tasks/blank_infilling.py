"""Autoregressive blank infilling (GLM, arXiv:2103.10360, section 2.1): spans are taken out and said again, one by one.

What is left of the text (part A) sees itself in both directions; the spans (part B) follow it in random order, each from a
start token, and see part A and all of part B before them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator
from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import AssemblyError, DataError
from vlmzoo_registry.infilling import END, START
from vlmzoo_registry.tasks import Objective, Reading, Rendered, Sample, Template
from vlmzoo_registry.token_row import IGNORE, TokenRow
from vlmzoo_tasks.all_text import all_text, special_ids
from vlmzoo_tasks.text_config import BlankInfillingConfig


@dataclass(frozen=True)
class _Vocabulary:
    mask: int
    start: int
    end: int
    special: frozenset[int]


class BlankInfillingObjective(Objective):
    """Say the tokens of each span that was taken out, and that it ends there.

    A token of part A stands where it stands in part A; a token of part B where the mask token of its span stands there, and
    `span_positions` counts it within its span, from 1 (section 2.3). Images stay in part A.
    """

    def __init__(self, config: BlankInfillingConfig, vocabulary: _Vocabulary | None = None) -> None:
        self._config = config
        self._vocabulary = vocabulary

    @property
    def attention(self) -> Literal["prefix"]:
        """Part A is the prefix."""
        return "prefix"

    @property
    def shift(self) -> bool:
        """No: the input at a position of part B is the token before the one that is said there."""
        return False

    @property
    def needs(self) -> frozenset[Reading]:
        """Two channels of positions."""
        return frozenset({"span_positions"})

    @property
    def keeps_length(self) -> bool:
        """No: each span brings a mask and a start token, and how many there are is drawn."""
        return False

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> "BlankInfillingObjective":
        """The objective with the tokenizer's ids of its tokens. Raises `AssemblyError` where the tokenizer lacks them."""
        vocabulary = tokenizer.get_vocab()
        missing = [f"`{token}`" for token in (START, END) if token not in vocabulary]
        if tokenizer.mask_token_id is None:
            missing.append("a mask token (`mask_token`)")
        if missing:
            raise AssemblyError(
                f"objective `blank_infilling`: the tokenizer lacks {', '.join(missing)}: let the language model add them "
                "(`span_positions` of `transformers/causal-lm` and `transformers/masked-lm`)"
            )
        special = special_ids(tokenizer)
        return BlankInfillingObjective(
            self._config, _Vocabulary(tokenizer.mask_token_id, vocabulary[START], vocabulary[END], special)
        )

    def render(self, sample: Sample, template: Template) -> Rendered:
        """The sample in the style of `template`, with one span over all of it: any of it may be taken out."""
        return all_text(sample, template)

    def corrupt(self, row: TokenRow, generator: Generator) -> TokenRow:
        """Take spans out of a row and put them behind it. Raises `DataError` for a row of special tokens alone."""
        words = self._vocabulary
        assert words is not None, "`bind` comes before `corrupt`"
        ids = row.input_ids.tolist()
        weights = [1.0] * len(ids) if row.weights is None else row.weights.tolist()
        free = [label != IGNORE and token not in words.special for token, label in zip(ids, row.labels.tolist(), strict=True)]
        if not any(free):
            raise DataError("none of its tokens can be taken out: it has no words besides special tokens; drop the row")
        spans = draw_spans(free, self._config.share, self._config.mean_length, generator)

        kept: list[int] = []
        masks: dict[int, int] = {}  # where in part A the mask token of the span stands that begins at this token
        position = 0
        for start, end in spans:
            kept += ids[position:start]
            masks[start] = len(kept)
            kept.append(words.mask)
            position = end
        kept += ids[position:]

        tokens, labels, said = list(kept), [IGNORE] * len(kept), [1.0] * len(kept)
        positions, inside = list(range(len(kept))), [0] * len(kept)
        for number in torch.randperm(len(spans), generator=generator).tolist():
            start, end = spans[number]
            tokens += [words.start, *ids[start:end]]
            labels += [*ids[start:end], words.end]
            said += [*weights[start:end], weights[end - 1]]
            positions += [masks[start]] * (end - start + 1)
            inside += range(1, end - start + 2)
        return replace(
            row,
            input_ids=torch.tensor(tokens),
            labels=torch.tensor(labels),
            weights=None if row.weights is None else torch.tensor(said),
            prefix=len(kept),
            position_ids=torch.tensor(positions),
            span_positions=torch.tensor(inside),
        )


def draw_spans(free: Sequence[bool], share: float, mean_length: float, generator: Generator) -> list[tuple[int, int]]:
    """Spans of free tokens, apart from each other and in their order, that hold at least `share` of these together.

    Lengths are Poisson numbers without 0; the last is cut to what is still to be taken out, and each to the longest stretch
    that is left.
    """
    left = list(free)
    wanted = max(1, int(share * sum(free) + 0.5))
    spans: list[tuple[int, int]] = []
    while wanted > 0:
        length = min(wanted, _length(mean_length, generator))
        starts = _starts(left, length)
        while not starts:
            length -= 1
            starts = _starts(left, length)
        start = starts[int(torch.randint(len(starts), (), generator=generator))]
        left[start : start + length] = [False] * length
        spans.append((start, start + length))
        wanted -= length
    return sorted(spans)


def _length(mean: float, generator: Generator) -> int:
    length = 0
    while length == 0:
        length = int(torch.poisson(torch.tensor(mean), generator=generator))
    return length


def _starts(free: Sequence[bool], length: int) -> list[int]:
    """Where a span of this length can begin."""
    run, starts = 0, []
    for place, is_free in enumerate(free):
        run = run + 1 if is_free else 0
        if run >= length:
            starts.append(place - length + 1)
    return starts
