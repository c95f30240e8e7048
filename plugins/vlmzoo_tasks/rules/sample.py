"""Keep some of the samples of a source, drawn by their ids: the same ones on every machine, whatever their order."""

from vlmzoo_registry.tasks import Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.draws import draw
from vlmzoo_tasks.rules.config import SampleConfig
from vlmzoo_tasks.rules.derived import Derived, same
from vlmzoo_tasks.rules.every_sample import of_every_sample


class SampleRule(Rule):
    """Keeps `count` samples, or a `share` of them, in the order in which they stand.

    Each sample is drawn by its id and its words alone, so others beside it change nothing of a share.
    """

    def __init__(self, config: SampleConfig) -> None:
        self._config = config

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once."""
        draws = of_every_sample(rows, "sample", lambda sample: _draw(sample, self._config.seed))
        drawn = [(number, index) for index, number in enumerate(draws)]
        if self._config.share is not None:
            kept = [index for number, index in drawn if number < self._config.share * 2**64]
        else:
            kept = sorted(index for _, index in sorted(drawn)[: self._config.count])
        fewer = self._config.count is not None and len(rows) < self._config.count
        asked = f", which are fewer than the {self._config.count} asked for" if fewer else ""
        return Ruled(Derived(rows, kept, same), f"sample: kept {len(kept)} of {len(rows)} samples{asked}")


def _draw(sample: Sample, seed: int) -> int:
    # Ids of published mixtures repeat: the words tell such samples apart.
    words = "\n".join(turn.text for turn in sample.turns)
    return draw(f"{seed}\n{sample.id}\n{words}")
