"""Q11, Q12 of the field's silent bugs: a row that is cut keeps its images and something to learn; planted bugs are seen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from silent_bugs import catches, collator, sample
from small_models import section, shake
from torch import Tensor

import vlmzoo
from vlmzoo.data.encode import IGNORE
from vlmzoo.data.truncation import LengthRule
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError, Sample

ROWS = (
    sample("a rather long answer"),
    sample("short", "a second answer", "and a third", images=2),
    sample("three images", images=3),
    sample("no image", "none at all", images=0),
)


@dataclass(frozen=True)
class Cut:
    """What is left of a row that may have so many tokens."""

    ids: Tensor
    labels: Tensor
    flagged: bool


@pytest.fixture(scope="module", params=["whole", "with words around each tile"])
def model(request: pytest.FixtureRequest) -> VLM:
    layout = {} if request.param == "whole" else {"layout": {"name": "layouts/tagged-tiles", "max_tiles": 2}}
    return shake(vlmzoo.build(section() | layout))


def limits(model: VLM, row: Sample) -> Iterator[int]:
    """From next to nothing to more than the row has; tokens of an image alone take long, so not each of them."""
    whole = len(collator(model).encode(row).input_ids)
    return iter(sorted({1, 5, 11, 17, 18, 35, 53, *range(whole - 30, whole + 2)} - set(range(-40, 1))))


def by_rule(model: VLM, row: Sample, most: int) -> Cut | None:
    """As training makes it; None where the row is refused, which names it and both numbers."""
    collate, batch, said = collator(model, length=LengthRule(most, cuts=True)), None, ""
    try:
        batch = collate([row])
    except DataError as error:
        said = str(error)
    if batch is None:
        assert said.startswith(f"{row.source}: ") and f"are more than `max_length` (={most}), and" in said
        return None
    assert batch["input_ids"].shape[1] <= most
    return Cut(batch["input_ids"][0], batch["labels"][0], flagged="cut_rows" in batch)


def by_force(model: VLM, row: Sample, most: int) -> Cut:
    """What the field does: everything behind the limit is gone."""
    whole = collator(model).encode(row)
    return Cut(whole.input_ids[:most], whole.labels[:most], flagged=len(whole.input_ids) > most)


def test_q11_truncate_keeps_images(model):
    """Every image of a row that is cut stands in it whole, with the words around it, and the model takes it."""
    kept = 0

    def check(cut_to: Callable[[VLM, Sample, int], Cut | None]) -> None:
        nonlocal kept
        for row in ROWS:
            whole = collator(model).encode(row).input_ids
            slots = (whole == model.processor.image_token.id).nonzero()
            for most in limits(model, row):
                cut = cut_to(model, row, most)
                if cut is None:
                    continue
                assert int((cut.ids == model.processor.image_token.id).sum()) == len(slots)
                if row.images:  # up to the words behind the last image, it is the row that it was
                    behind = int(slots[-1]) + 1
                    assert torch.equal(cut.ids[: behind + 5], whole[: behind + 5])
                kept += int(cut.flagged)

    check(by_rule)
    assert kept > 20
    catches(check, by_force)

    row = ROWS[1]
    most = len(collator(model).encode(row).input_ids) - 20
    batch = collator(model, length=LengthRule(most, cuts=True))([row, ROWS[3]])
    assert batch.pop("cut_rows").tolist() == [True, False]
    assert model(**batch).loss.isfinite()


def test_q12_truncate_keeps_answer(model):
    """What is learnt of a row that is cut is how its answers begin: never nothing, and never an end that is not there."""
    tokenizer = model.processor.tokenizer

    def check(cut_to: Callable[[VLM, Sample, int], Cut | None]) -> None:
        for row in ROWS:
            answers = "".join(f" {turn.text}{tokenizer.eos_token}" for turn in row.turns if turn.role == "assistant")
            for most in limits(model, row):
                cut = cut_to(model, row, most)
                if cut is None:
                    continue
                learnt = tokenizer.decode(cut.labels[cut.labels != IGNORE])
                assert learnt.strip() and answers.startswith(learnt)
                assert cut.flagged == (learnt != answers)

    def with_an_end(model: VLM, row: Sample, most: int) -> Cut | None:
        """A row that breaks off, and teaches to break off: its last token is made an end."""
        cut = by_rule(model, row, most)
        if cut is None or not cut.flagged:
            return cut
        last = torch.arange(len(cut.ids)) == len(cut.ids) - 1
        end = int(tokenizer.eos_token_id)
        return replace(cut, ids=cut.ids.masked_fill(last, end), labels=cut.labels.masked_fill(last, end))

    check(by_rule)
    catches(check, by_force)
    catches(check, with_an_end)
