"""How often the samples of a source are drawn in an epoch: its weight in a mixture."""

from dataclasses import replace

from vlmzoo_registry.tasks import Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.draws import draw
from vlmzoo_tasks.rules.config import RepeatConfig
from vlmzoo_tasks.rules.derived import Derived


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
        places = [
            (index, copy)
            for index in range(len(rows))
            for copy in range(whole + (part > 0 and draw(f"{self._config.seed}\n{rows[index].id}") < part))
        ]
        return Ruled(Derived(rows, places, _copy), f"repeat: {len(rows)} samples came to {len(places)}")


def _copy(rows: Dataset, place: tuple[int, int]) -> Sample:
    index, copy = place
    sample = rows[index]
    return sample if copy == 0 else replace(sample, id=f"{sample.id}*{copy}")
