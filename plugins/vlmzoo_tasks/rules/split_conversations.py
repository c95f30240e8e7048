"""Take long conversations apart (LLaVA-1.5, arXiv:2310.03744, appendix: those of RefCOCO into fewer than 10 questions)."""

from dataclasses import replace

from vlmzoo_registry.errors import BadRowError
from vlmzoo_registry.tasks import IMAGE, Dataset, Rule, Ruled, Sample
from vlmzoo_tasks.rules.config import SplitConversationsConfig
from vlmzoo_tasks.rules.derived import Derived
from vlmzoo_tasks.rules.every_sample import of_every_sample
from vlmzoo_tasks.rules.exchanges import Talk, marked, talk
from vlmzoo_tasks.rules.marks import with_marks


class SplitConversations(Rule):
    """Conversations of at most `most` questions: pieces in order, each with the system's words and all the images."""

    def __init__(self, config: SplitConversationsConfig) -> None:
        self._most = config.most

    def apply(self, rows: Dataset) -> Ruled:
        """Reads every sample once.

        Raises `RefusedRowsError` for turns that are no questions with answers, and where a conversation to be split shows
        images in later questions.
        """
        counts = of_every_sample(rows, "split_conversations", self._count)
        split = sum(count > 1 for count in counts)
        places = [(index, piece, count) for index, count in enumerate(counts) for piece in range(count)]
        note = f"split_conversations: {split} of {len(rows)} conversations were split, {len(places)} are there now"
        return Ruled(Derived(rows, places, self._piece), note)

    def _count(self, sample: Sample) -> int:
        """Into how many conversations a sample is split."""
        exchanges = talk(sample, "split_conversations").exchanges
        count = -(-len(exchanges) // self._most)
        if count > 1 and marked(exchanges[1:], IMAGE):
            raise BadRowError(sample.source, "shows images in later questions than the first: drop the row")
        return count

    def _piece(self, rows: Dataset, place: tuple[int, int, int]) -> Sample:
        index, piece, count = place
        sample = rows[index]
        if count == 1:
            return sample
        said = talk(sample, "split_conversations")
        exchanges = said.exchanges[piece * self._most : (piece + 1) * self._most]
        turns = Talk(said.system, with_marks(exchanges, len(sample.images))).turns
        return replace(sample, id=f"{sample.id}/{piece}", turns=turns)
