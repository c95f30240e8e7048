"""How often the samples of a source are drawn in an epoch: its weight in a mixture."""

from dataclasses import replace

from vlmzoo_registry.tasks import Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.draws import draw
from vlmzoo_tasks.rules.config import RepeatConfig
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.every_sample import of_every_sample


class Repeat(Rule):
    """Each sample `times` over; for the part behind the point, the samples that come once more are drawn by their ids.

    A source that is to come less than once an epoch takes the rule `sample` with a `share`.
    """

    def __init__(self, config: RepeatConfig) -> None:
        self._config = config

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once, where `times` is no whole number."""
        whole = int(self._config.times)
        part = (self._config.times - whole) * 2**64
        more = [False] * len(rows)
        if part:
            drawn = of_every_sample(rows, "repeat", lambda sample: draw(f"{self._config.seed}\n{sample.id}"))
            more = [number < part for number in drawn]
        places = [(index, copy) for index, once_more in enumerate(more) for copy in range(whole + once_more)]
        return Ruled(Derived(rows, places, _copy), f"repeat: {len(rows)} samples came to {len(places)}")


def _copy(rows: Dataset, place: tuple[int, int]) -> Sample:
    index, copy = place
    sample = rows[index]
    return sample if copy == 0 else replace(sample, id=f"{sample.id}*{copy}")
