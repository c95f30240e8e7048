"""What holds for a language model that says it reads more than text: what it is told so changes what it should."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor

from vlmzoo_registry.component import Component
from vlmzoo_registry.language import LanguageModel
from vlmzoo_registry.report import failure
from vlmzoo_registry.tasks import Reading
from vlmzoo_registry.testing.check import CheckFunction, NotApplicable, require
from vlmzoo_registry.testing.harness import TOLERANCE, difference
from vlmzoo_registry.testing.language_harness import TEXT, LanguageHarness, prefix_of

PLACE = TEXT // 2
ROWS_IN_ONE = (4, 1, 3)
"""The lengths of rows that stand one after the other."""


def reads_what_it_declares(component: Component) -> None:
    """What `reads` names is read: a full prefix in both directions, segments, places in spans; and there is a sentence head.

    Why: objectives ask for it by name. A model that takes a channel and ignores it trains on half of what the objective says,
    with a loss that falls all the same.

    If it fails: let `decode` use what `reads` names, or leave the name out of `reads`, so that such an objective is refused.
    """
    harness = LanguageHarness(component)
    model = harness.build_open()
    declared = {str(name) for name in model.reads} - {"row_lengths"}
    if not declared:
        raise NotApplicable("the model declares that it reads nothing more")
    reasons = [f"`{name}` is nothing that an objective asks for" for name in sorted(declared - set(get_args(Reading)))]
    for name, look in _LOOKS.items():
        if name in declared:
            try:
                with torch.no_grad():
                    reasons += [f"`{name}`: {reason}" for reason in look(harness, model)]
            except Exception as error:
                reasons.append(f"`{name}`: {failure(error)}")
    require(not reasons, "it does not read what it declares", reasons)


def rows_in_one_sequence_stay_apart(component: Component) -> None:
    """Rows that stand one after the other (`row_lengths`) have the logits that each has alone, to 1e-5, prefixes included.

    Why: training puts rows together to save padding. A row that sees its neighbour learns from what is never there when the
    model is used.

    If it fails: let attention end at the border of a row (a mask of blocks, or attention row by row), take positions from
    `position_ids`, and keep anything that runs along the sequence (a recurrent state, a convolution) from crossing it; else
    leave "row_lengths" out of `reads`, and batches are padded.
    """
    harness = LanguageHarness(component)
    model = harness.build_open()
    if "row_lengths" not in model.reads:
        raise NotApplicable("the model declares that it takes no rows one after the other")
    reasons = []
    prefixes = {"none": (0,), "optional": (0, 2), "required": (2,)}[model.prefix]
    for prefix in prefixes:
        with torch.no_grad():
            rows = [_row(harness, model, length, prefix) for length in ROWS_IN_ONE]
            alone = [_logits(model, ids, channels) for ids, channels in rows]
            ids, channels = torch.cat([ids for ids, _ in rows], 1), [channels for _, channels in rows]
            together = {name: torch.cat([each[name] for each in channels], 1) for name in channels[0]}
            packed = _logits(model, ids, {**together, "row_lengths": torch.tensor(ROWS_IN_ONE)})
        named = f" with a prefix of {prefix}" if prefix else ""
        for number, (found, wanted) in enumerate(zip(packed.split(ROWS_IN_ONE, 1), alone, strict=True)):
            distance = difference(found, wanted)
            if not distance <= TOLERANCE:
                reasons.append(f"row {number}{named}, of {ROWS_IN_ONE[number]} tokens, differs by {distance:.2g}")
    require(not reasons, f"rows of {', '.join(map(str, ROWS_IN_ONE))} tokens are not what they are alone", reasons)


CHECKS: tuple[CheckFunction, ...] = (reads_what_it_declares, rows_in_one_sequence_stay_apart)


def _logits(model: LanguageModel, ids: Tensor, channels: dict[str, Any]) -> Tensor:
    logits: Tensor = model.head(model.decode(model.embedding(ids), **channels))
    return logits


def _row(harness: LanguageHarness, model: LanguageModel, length: int, prefix: int) -> tuple[Tensor, dict[str, Tensor]]:
    """A row of random tokens with its positions, its prefix where there is one, and all else that the model reads."""
    places = torch.arange(length)[None]
    channels = {"position_ids": places}
    if prefix:
        channels["prefix_mask"] = places < prefix
    if "segment_ids" in model.reads:
        channels["segment_ids"] = (places >= length // 2).long()
    if "span_positions" in model.reads:
        channels["span_positions"] = places
    return harness.ids(model, 1, length), channels


def _changed(harness: LanguageHarness, model: LanguageModel, ids: Tensor, place: int) -> Tensor:
    """The same ids with another token at one place of every row."""
    other = ids.clone()
    for row in other:
        row[place] = next(token for token in harness.ids(model, 1, 100)[0] if token != row[place])
    return other


def _full_prefix(harness: LanguageHarness, model: LanguageModel) -> list[str]:
    """A prefix is seen in both directions, whole rows too; what follows it is not, nor is padding."""
    if model.prefix == "none":
        return ["it is read as a prefix, and `prefix` is none"]
    reasons = []
    ids, places = harness.ids(model, 2), torch.arange(TEXT).expand(2, -1)
    for prefix, changed, seen in ((TEXT, TEXT - 1, True), (PLACE, PLACE - 1, True), (PLACE, PLACE, False)):
        channels = {"prefix_mask": places < prefix}
        other = _changed(harness, model, ids, changed)
        one, two = _logits(model, ids, channels), _logits(model, other, channels)
        moved = difference(two[:, 0], one[:, 0])
        if seen and not moved > 0:
            reasons.append(f"in a prefix of {prefix} tokens the first does not see token {changed}")
        if not seen and not moved <= TOLERANCE:
            reasons.append(f"behind a prefix of {prefix} tokens, token {changed} moves what is said before it by {moved:.2g}")
    short = {"prefix_mask": torch.ones(2, PLACE, dtype=torch.bool)}
    padded = {"prefix_mask": places < PLACE, "attention_mask": (places < PLACE).long()}
    distance = difference(_logits(model, ids, padded)[:, :PLACE], _logits(model, ids[:, :PLACE], short))
    if not distance <= TOLERANCE:
        reasons.append(f"padding behind a row that is a prefix moves its logits by {distance:.2g}")
    return reasons


def _channel(name: str, told: Tensor) -> Callable[[LanguageHarness, LanguageModel], list[str]]:
    """What is told of the last tokens of a row changes what is said there, and nothing of another row."""

    def look(harness: LanguageHarness, model: LanguageModel) -> list[str]:
        ids = harness.ids(model, 2)
        channels: dict[str, Any] = prefix_of(model, torch.ones_like(ids))
        nothing = torch.zeros_like(ids)
        something = nothing.clone()
        something[0, -len(told) :] = told
        one, two = (_logits(model, ids, {**channels, name: given}) for given in (nothing, something))
        reasons = []
        if not difference(two[0, -len(told) :], one[0, -len(told) :]) > 0:
            reasons.append(f"{told.tolist()} for the last tokens instead of 0 changes nothing there")
        if not difference(two[1], one[1]) <= TOLERANCE:
            reasons.append("what is told of one row changes another")
        return reasons

    return look


def _sentence_head(harness: LanguageHarness, model: LanguageModel) -> list[str]:
    """Two logits of a row's first hidden state, other ones for another."""
    said = model.sentence_head(torch.randn(2, model.width))
    if tuple(said.shape) != (2, 2):
        return [f"`sentence_head` gives {tuple(said.shape)} for hidden states (2, {model.width}), and two logits are asked for"]
    return [] if difference(said[0], said[1]) > 0 else ["`sentence_head` says the same of every hidden state"]


_LOOKS: dict[str, Callable[[LanguageHarness, LanguageModel], list[str]]] = {
    "full_prefix": _full_prefix,
    "segment_ids": _channel("segment_ids", torch.tensor([1, 1, 1])),
    "span_positions": _channel("span_positions", torch.tensor([1, 2, 3])),
    "sentence_labels": _sentence_head,
}
