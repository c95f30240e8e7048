"""Ask a question of several choices once for each of them (LLaVA-1.5, arXiv:2310.03744, appendix, for A-OKVQA)."""

import re
from dataclasses import dataclass, replace

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.errors import BadRowError
from vlmzoo_registry.tasks import Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.every_sample import of_every_sample
from vlmzoo_tasks.rules.exchanges import Exchange, Talk, talk

_OPTION = re.compile(r"([A-Z])\. (.+)")


@dataclass(frozen=True)
class _Choices:
    """The lines before the options, the options, the lines behind; and which of the options is right."""

    before: tuple[str, ...]
    options: tuple[str, ...]
    after: tuple[str, ...]
    right: int


class RotateOptions(Rule):
    """A question with k options becomes k: the options go round, so that the right one stands at each letter once.

    Options are lines `A. ...`, `B. ...` of the question, from A on, and the answer is the letter of one. The paper says how
    often a question is asked, not in which order the options stand then.
    """

    def __init__(self, config: NoOptions) -> None:
        pass

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once. Raises `RefusedRowsError` naming each that is not one question with options."""
        counts = of_every_sample(rows, "rotate_options", lambda sample: len(_choices(sample).options))
        places = [(index, shift) for index, count in enumerate(counts) for shift in range(count)]
        return Ruled(Derived(rows, places, _rotated), f"rotate_options: {len(rows)} questions became {len(places)}")


def _choices(sample: Sample) -> _Choices:
    said = talk(sample, "rotate_options")
    if len(said.exchanges) != 1:
        raise BadRowError(sample.source, f"has {len(said.exchanges)} questions, not 1: put the rule before `merge_by_image`")
    lines, answer = said.exchanges[0].question.split("\n"), said.exchanges[0].answer.strip()
    found = [_OPTION.fullmatch(line.strip()) for line in lines]
    first = next((number for number, match in enumerate(found) if match is not None and match[1] == "A"), len(lines))
    options: list[str] = []
    for match in found[first:]:
        if match is None or match[1] != chr(ord("A") + len(options)):
            break
        options.append(match[2])
    letters = [chr(ord("A") + number) for number in range(len(options))]
    if len(options) < 2 or answer not in letters:
        known = ", ".join(letters) or "no options, `A. ...` and `B. ...` on lines of their own"
        raise BadRowError(sample.source, f"the answer {answer!r:.40} is not the letter of an option (the question has {known})")
    behind = first + len(options)
    return _Choices(tuple(lines[:first]), tuple(options), tuple(lines[behind:]), letters.index(answer))


def _rotated(rows: Dataset, place: tuple[int, int]) -> Sample:
    """The sample with each option `shift` letters further, and the last ones first."""
    index, shift = place
    sample = rows[index]
    choices = _choices(sample)
    count = len(choices.options)
    options = [f"{chr(ord('A') + at)}. {choices.options[(at - shift) % count]}" for at in range(count)]
    question = "\n".join((*choices.before, *options, *choices.after))
    exchange = Exchange(question, chr(ord("A") + (choices.right + shift) % count))
    turns = Talk(talk(sample, "rotate_options").system, (exchange,)).turns
    return replace(sample, id=f"{sample.id}+{shift}", turns=turns)
