"""Keep some of the questions of long conversations (LLaVA-1.5, arXiv:2310.03744, appendix: 10 for images of Visual Genome)."""

from dataclasses import replace

from vlmzoo_registry.tasks import IMAGE, Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.draws import draw
from vlmzoo_tasks.rules.config import SampleExchangesConfig
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.every_sample import of_every_sample
from vlmzoo_tasks.rules.exchanges import Exchange, Talk, marked, talk
from vlmzoo_tasks.rules.marks import with_marks


class SampleExchanges(Rule):
    """Of a conversation with more than `count` questions, so many are kept, in their order, drawn by the sample's id.

    The marks of its images move to the first question that is kept. A conversation that shows images in later questions stays
    as it is.
    """

    def __init__(self, config: SampleExchangesConfig) -> None:
        self._config = config

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once. Raises `RefusedRowsError` for turns that are no questions with answers."""
        longer = sum(of_every_sample(rows, "sample_exchanges", lambda sample: self._kept(sample) is not None))
        note = f"sample_exchanges: kept {self._config.count} questions of {longer} of {len(rows)} conversations"
        return Ruled(Derived(rows, range(len(rows)), self._sampled), note)

    def _sampled(self, rows: Dataset, index: int) -> Sample:
        sample = rows[index]
        kept = self._kept(sample)
        if kept is None:
            return sample
        system = talk(sample, "sample_exchanges").system
        return replace(sample, turns=Talk(system, with_marks(kept, len(sample.images))).turns)

    def _kept(self, sample: Sample) -> tuple[Exchange, ...] | None:
        """The questions that are kept; None where all are."""
        exchanges = talk(sample, "sample_exchanges").exchanges
        if len(exchanges) <= self._config.count or marked(exchanges[1:], IMAGE):
            return None
        order = sorted(range(len(exchanges)), key=lambda number: draw(f"{self._config.seed}\n{sample.id}\n{number}"))
        return tuple(exchanges[number] for number in sorted(order[: self._config.count]))
