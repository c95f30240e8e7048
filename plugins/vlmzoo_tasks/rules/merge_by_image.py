"""All that is asked about an image in one conversation (LLaVA-1.5, arXiv:2310.03744, appendix): it is then encoded once."""

import re
from collections.abc import Hashable
from dataclasses import replace

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.tasks import IMAGE, Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.every_sample import of_every_sample
from vlmzoo_tasks.rules.exchanges import Exchange, Talk, talk

_MARKS = re.compile(rf"\s*{re.escape(IMAGE)}\s*")


class MergeByImage(Rule):
    """Conversations about the same images, of the same system, become one, where the first of them stands, in their order.

    The images are shown in the first; their marks are taken out of the others. Samples without image stay as they are.
    """

    def __init__(self, config: NoOptions) -> None:
        pass

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once. Raises `RefusedRowsError` for turns that are no questions with answers."""
        groups: dict[Hashable, list[int]] = {}
        for index, shown in enumerate(of_every_sample(rows, "merge_by_image", _shown)):
            groups.setdefault(index if shown is None else shown, []).append(index)
        note = f"merge_by_image: {len(rows)} samples became {len(groups)} conversations"
        return Ruled(Derived(rows, [tuple(group) for group in groups.values()], _merged), note)


def _shown(sample: Sample) -> Hashable | None:
    """What samples that are merged have in common; None where there is no image."""
    return (sample.images, talk(sample, "merge_by_image").system) if sample.images else None


def _merged(rows: Dataset, group: tuple[int, ...]) -> Sample:
    first = rows[group[0]]
    if len(group) == 1:
        return first
    begin = talk(first, "merge_by_image")
    later = [
        Exchange(_unmarked(exchange.question), exchange.answer)
        for index in group[1:]
        for exchange in talk(rows[index], "merge_by_image").exchanges
    ]
    turns = Talk(begin.system, (*begin.exchanges, *later)).turns
    return replace(first, turns=turns, source=f"{first.source} and {len(group) - 1} more about its image")


def _unmarked(question: str) -> str:
    """The question without marks, and without the white space around them but for one space between words."""
    return _MARKS.sub(" ", question).strip() if IMAGE in question else question
