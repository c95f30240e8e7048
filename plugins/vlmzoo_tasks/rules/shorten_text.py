"""Cut long conversations without image (LLaVA-1.5, arXiv:2310.03744, appendix, which cuts instead of splitting them)."""

from dataclasses import replace

from vlmzoo_registry.tasks import Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.rules.config import ShortenTextConfig
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.every_sample import of_every_sample
from vlmzoo_tasks.rules.exchanges import Exchange, Talk, talk


class ShortenText(Rule):
    """Of a conversation without image, what goes beyond `characters` is cut: first whole exchanges from its end.

    Where the first exchange alone is too long, its answer is cut behind a word; where its question leaves no room for a word of
    the answer, the conversation is left out. What the system says counts. Conversations with images stay as they are.
    """

    def __init__(self, config: ShortenTextConfig) -> None:
        self._most = config.characters

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once. Raises `RefusedRowsError` for turns that are no questions with answers."""
        changed = of_every_sample(rows, "shorten_text", self._changes)
        kept = [index for index, change in enumerate(changed) if change is not None]
        cut = sum(change is True for change in changed)
        left_out = len(rows) - len(kept)
        note = f"shorten_text: cut {cut} of {len(rows)} conversations to {self._most} characters, left out {left_out}"
        return Ruled(Derived(rows, kept, self._shortened), note)

    def _shortened(self, rows: Dataset, index: int) -> Sample:
        sample = rows[index]
        return self._short(sample) or sample

    def _changes(self, sample: Sample) -> bool | None:
        """Whether the sample is cut; None where it is left out."""
        short = self._short(sample)
        return None if short is None else short is not sample

    def _short(self, sample: Sample) -> Sample | None:
        """The sample, cut where it is too long; None where nothing of its first answer would be left."""
        if sample.images or sum(len(turn.text) for turn in sample.turns) <= self._most:
            return sample
        said = talk(sample, "shorten_text")
        room = self._most - len(said.system or "")
        kept: list[Exchange] = []
        for exchange in said.exchanges:
            room -= len(exchange.question) + len(exchange.answer)
            if room < 0:
                break
            kept.append(exchange)
        if not kept:
            first = said.exchanges[0]
            answer = _whole_words(first.answer, self._most - len(said.system or "") - len(first.question))
            if not answer:
                return None
            kept = [Exchange(first.question, answer)]
        return replace(sample, turns=Talk(said.system, tuple(kept)).turns)


def _whole_words(text: str, most: int) -> str:
    """The beginning of a text, at most so long, that ends where a word does; empty where not even one word fits."""
    within = text[: max(0, most)]
    if len(text) <= most or text[len(within)].isspace() or not within:
        return within.rstrip()
    words = within.rsplit(maxsplit=1)
    return within.rstrip() if within[-1].isspace() else words[0] if len(words) == 2 else ""
