"""What holds for every metric: the truth scores 1, no pair of texts breaks it, and scores can be averaged."""

import math

from vlmzoo_registry.component import Component
from vlmzoo_registry.report import failure
from vlmzoo_registry.tasks import Metric
from vlmzoo_registry.testing.check import CheckFunction, require
from vlmzoo_registry.testing.tiny import make, tiny_config

TEXTS = (
    "",
    " ",
    ".",
    "...",
    "a red car",
    "A red car. ",
    "no",
    "three 3 birds",
    "Grüße, ägypt",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}",
    "\u05e9\u05dc\u05d5\u05dd",
    "line\nbreak\ttab",
    "\x00\ufffd",
    "<|im_end|>",
    "( [ * + \\ {0} %s",
    "word " * 500,
)
"""Texts that models do say: nothing, white space, full stops, other scripts, control characters, the same word for ever."""


def the_truth_scores_one(component: Component) -> None:
    """Whoever says the truth itself scores 1, whatever the truth is, empty texts included.

    Why: a perfect model must reach the top of the scale, or results of different data cannot be compared.

    If it fails: treat equal texts first; mind texts without a word, where a share would be 0 of 0.
    """
    metric = _metric(component)
    wrong = [f"{text!r:.60}: {score}" for text in TEXTS if (score := metric.score(text, text)) != 1]
    require(not wrong, "the truth does not score 1", wrong)


def every_pair_has_a_score(component: Component) -> None:
    """Any two texts have a score: a finite number from 0 to 1, the same every time.

    Why: models say anything, and one answer that raises or is no number would lose the evaluation of all others.

    If it fails: divide by no length that may be 0, take no text for a pattern, and keep no state between calls.
    """
    metric = _metric(component)
    reasons = []
    for truth in TEXTS:
        for said in TEXTS:
            pair = f"truth {truth!r:.60}, said {said!r:.60}"
            try:
                once, twice = metric.score(truth, said), metric.score(truth, said)
            except Exception as error:
                reasons.append(f"{pair}: {failure(error)}")
                continue
            if not isinstance(once, int | float) or not math.isfinite(once) or not 0 <= once <= 1:
                reasons.append(f"{pair}: {once!r}")
            elif once != twice:
                reasons.append(f"{pair}: {once} and then {twice}")
    require(not reasons, f"{len(reasons)} of {len(TEXTS) ** 2} pairs have no score from 0 to 1", reasons[:10])


def tells_answers_apart(component: Component) -> None:
    """Some wrong answer scores less than the truth.

    Why: a measure that is always 1 shows progress where there is none.

    If it fails: look at what the metric compares; `a red car` and `no` share nothing.
    """
    score = _metric(component).score("a red car", "no")
    require(score < 1, f"for the truth 'a red car' the answer 'no' scores {score}, as the truth does")


CHECKS: tuple[CheckFunction, ...] = (the_truth_scores_one, every_pair_has_a_score, tells_answers_apart)


def _metric(component: Component) -> Metric:
    return make(component, Metric, tiny_config(component))  # type: ignore[type-abstract]
