"""Tell the model in which form to answer, so that short answers of one source do not teach it to be short everywhere."""

from dataclasses import replace

from vlmzoo_registry.tasks import Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.rules.config import ResponseFormatConfig
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.exchanges import Exchange, Talk, talk


class ResponseFormat(Rule):
    """Writes `prompt` behind questions, on a line of its own (LLaVA-1.5, arXiv:2310.03744, section 3.2)."""

    def __init__(self, config: ResponseFormatConfig) -> None:
        self._config = config

    def apply(self, rows: Dataset) -> Ruled:
        """The same samples; questions are changed when a sample is asked for."""
        note = f"response_format: behind {self._config.questions} question of {len(rows)} conversations: {self._config.prompt}"
        return Ruled(Derived(rows, range(len(rows)), self._prompted), note)

    def _prompted(self, rows: Dataset, index: int) -> Sample:
        sample = rows[index]
        said = talk(sample, "response_format")
        exchanges = tuple(
            Exchange(f"{exchange.question.rstrip()}\n{self._config.prompt}", exchange.answer)
            if number == 0 or self._config.questions == "every"
            else exchange
            for number, exchange in enumerate(said.exchanges)
        )
        return replace(sample, turns=Talk(said.system, exchanges).turns)
