"""A conversation as exchanges: what the system says, then questions with their answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlmzoo_registry.errors import BadRowError
from vlmzoo_registry.tasks import Sample, Turn


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Talk:
    """A conversation: what the system says, if it does, and the exchanges."""

    system: str | None
    exchanges: tuple[Exchange, ...]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The same as turns."""
        system = [] if self.system is None else [Turn("system", self.system)]
        return (*system, *_turns(self.exchanges))


def talk(sample: Sample, rule: str) -> Talk:
    """The conversation of a sample. Raises `BadRowError` where its turns are no questions with answers; `rule` is who asks."""
    turns = list(sample.turns)
    system = turns.pop(0).text if turns and turns[0].role == "system" else None
    roles = [turn.role for turn in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        found = ", ".join(turn.role for turn in sample.turns) or "none"
        raise BadRowError(
            sample.source,
            f"rule `{rule}` needs questions with their answers (the turns are {found}): "
            "put the rule `drop_invalid` before it, or drop the row",
        )
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return Talk(system, tuple(Exchange(asked.text, answer.text) for asked, answer in pairs))


def marked(exchanges: Sequence[Exchange], image: str) -> int:
    """How many images are marked in these questions."""
    return sum(exchange.question.count(image) for exchange in exchanges)


def _turns(exchanges: Iterable[Exchange]) -> Iterable[Turn]:
    for exchange in exchanges:
        yield Turn("user", exchange.question)
        yield Turn("assistant", exchange.answer)
