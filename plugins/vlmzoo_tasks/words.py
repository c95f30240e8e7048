"""How many words an answer shares with the true one: the F1 of SQuAD (arXiv:1606.05250, section 6.1), articles counted."""

import re
from collections import Counter

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.tasks import Metric


class WordsMetric(Metric):
    """The harmonic mean of two shares: of the words said, those in the truth; of the true words, those said.

    Words are runs of letters, digits and underscores after Unicode case folding, each counted as often as it stands in both
    texts. SQuAD's own script also drops the English articles; here no language is known, so they count. Two texts without a
    word score 1, one of them 0.
    """

    def __init__(self, config: NoOptions) -> None:
        pass

    def score(self, truth: str, said: str) -> float:
        """From 0.0, no word in common, to 1.0, the same words in any order."""
        true, spoken = _words(truth), _words(said)
        if not true or not spoken:
            return float(not true and not spoken)
        return 2 * (true & spoken).total() / (true.total() + spoken.total())


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.casefold()))
