"""Whether an answer is the true one, word for word, but for how it is dressed."""

from vlmzoo_registry.config import NoOptions
from vlmzoo_registry.tasks import Metric


class ExactMetric(Metric):
    """1 where both texts are equal once dressed alike, otherwise 0.

    Dressed alike: Unicode case folding; outer white space off and each run of inner white space one space; then one full stop
    at the end off, with the white space before it. Nothing else: articles, accents and other punctuation count.
    """

    def __init__(self, config: NoOptions) -> None:
        pass

    def score(self, truth: str, said: str) -> float:
        """1.0 or 0.0."""
        return float(_dressed(truth) == _dressed(said))


def _dressed(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()
