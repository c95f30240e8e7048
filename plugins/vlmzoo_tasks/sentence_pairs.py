"""Two sentences and whether the second follows the first, as BERT learns it (arXiv:1810.04805, section 3.1)."""

from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import Dataset, Sample, Turn
from vlmzoo_tasks.documents import read_blocks
from vlmzoo_tasks.draws import draw
from vlmzoo_tasks.rows import BadRows
from vlmzoo_tasks.text_config import SentencePairsConfig


class SentencePairsDataset(Dataset):
    """One sample for each sentence that another follows in its document; label 0 where that one stands beside it, 1 otherwise.

    Which it is, and which other sentence takes its place, hangs on the line alone. The other comes from another document, as in
    BERT, and from elsewhere in the same one where there is no other. Raises `DataError` with every line that cannot be used.
    """

    def __init__(self, config: SentencePairsConfig) -> None:
        self._path, self._random = config.path, config.random
        bad = BadRows(config.path)
        documents = read_blocks(config.path, bad)
        self._sentences = [sentence for document in documents for sentence in document]
        self._pairs: list[tuple[int, int, int]] = []  # a first sentence, and where its document begins and ends
        begin = 0
        for document in documents:
            end = begin + len(document)
            self._pairs += [(place, begin, end) for place in range(begin, end - 1)]
            begin = end
        bad.raise_any(self)
        if not self._pairs or len(self._sentences) < 3:
            raise DataError(
                f"`{config.path}` has {len(self._sentences)} sentences and {len(self._pairs)} pairs of one and the next: it "
                "needs 3 sentences and a pair, one sentence per line and an empty line between documents"
            )

    def __len__(self) -> int:
        """How many pairs there are."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        """The first sentence as what the user says, the second as the assistant's."""
        place, begin, end = self._pairs[index]
        line, first = self._sentences[place]
        is_random = draw(f"{line} random") < self._random * 2**64
        second = self._sentences[self._other(place, begin, end) if is_random else place + 1][1]
        return Sample(
            id=str(line),
            turns=(Turn("user", first), Turn("assistant", second)),
            images=(),
            source=f"{self._path}:{line}",
            label=int(is_random),
        )

    def _other(self, place: int, begin: int, end: int) -> int:
        """A sentence that does not follow this one."""
        count = len(self._sentences)
        if end - begin < count:  # there is another document
            drawn = draw(f"{self._sentences[place][0]} other") * (count - (end - begin)) >> 64
            return drawn if drawn < begin else drawn + (end - begin)
        drawn = draw(f"{self._sentences[place][0]} other") * (count - 2) >> 64
        return drawn if drawn < place else drawn + 2
