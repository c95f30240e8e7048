"""Leave out what is no conversation, as Vicuna does with conversations that people shared (arXiv:2310.03744, appendix)."""

from dataclasses import replace

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.tasks import IMAGE, Dataset, Rule, Ruled, Sample, Turn
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.every_sample import of_every_sample


class DropInvalid(Rule):
    """What the assistant says before the first question and questions behind the last answer are cut off.

    A conversation is left out where nothing remains, where its turns then do not go question, answer, question, answer, where
    a turn has no words, and where what was cut off showed an image.
    """

    def __init__(self, config: NoOptions) -> None:
        pass

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once."""
        changed = of_every_sample(rows, "drop_invalid", _changes)
        kept = [index for index, change in enumerate(changed) if change is not None]
        cut = sum(change is True for change in changed)
        note = f"drop_invalid: left out {len(rows) - len(kept)} of {len(rows)} conversations, cut the ends off {cut}"
        return Ruled(Derived(rows, kept, _cut), note)


def _changes(sample: Sample) -> bool | None:
    """Whether the ends of a sample are cut off; None where it is left out."""
    turns = _valid(sample)
    return None if turns is None else turns != sample.turns


def _cut(rows: Dataset, index: int) -> Sample:
    sample = rows[index]
    return replace(sample, turns=_valid(sample) or sample.turns)


def _valid(sample: Sample) -> tuple[Turn, ...] | None:
    """The turns that can be learnt from; None where there are none."""
    system = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
    turns = list(sample.turns[len(system) :])
    while turns and turns[0].role == "assistant":
        turns.pop(0)
    while turns and turns[-1].role == "user":
        turns.pop()
    roles = [turn.role for turn in turns]
    marks = sum(turn.text.count(IMAGE) for turn in turns)
    whole = all(turn.text.replace(IMAGE, "").strip() or (IMAGE in turn.text and turn.role == "user") for turn in turns)
    if not turns or not whole or roles != ["user", "assistant"] * (len(turns) // 2) or marks != len(sample.images):
        return None
    return (*system, *turns)
