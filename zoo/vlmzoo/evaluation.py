"""What a model says of samples it is asked about, how likely it finds the true answers, and how well both fit.

The same model is also asked blind, with the images shuffled among the samples: only the difference can come from looking.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from typing import Any, Protocol

import torch

from vlmzoo.asker import Asker
from vlmzoo.data import Collator
from vlmzoo.data.randomness import keyed_generator
from vlmzoo.exits import refuses_exit
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import IMAGE, DataError, Metric, PluginError, Sample


class Rows(Protocol):
    """Samples by index: a list, a `Dataset`, the samples of a stage."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Answer:
    """One sample: its last question, the true answer, what the model says, and how unlikely it finds what is true.

    `shown` is the id of the sample whose images the model saw: its own, unless the images were shuffled. `nats` is the sum of
    -log p over the `tokens` supervised tokens of the sample, whatever their weights; both are None where that was not measured.
    `scores` are those of each metric.
    """

    id: str
    source: str
    shown: str
    question: str
    truth: str
    said: str
    nats: float | None
    tokens: int | None
    scores: dict[str, float]


@dataclass(frozen=True)
class Score:
    """The mean of a metric over `n` answers, and its standard error (None for one answer)."""

    mean: float
    standard_error: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """All answers, in the order of the samples; `loss` is the mean over all `tokens` that are supervised, in nats.

    Both are None where it was not measured how likely the true answers are.
    """

    answers: tuple[Answer, ...]
    loss: float | None
    tokens: int | None
    scores: dict[str, Score]
    shuffled: bool

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Contrast:
    """The same questions asked seeing, asked blind, and answered by who never looks.

    `frequent` are pairs of what is true and the answer most often right in training, `frequent_scores` those of these answers.
    """

    seeing: Evaluation
    blind: Evaluation
    frequent: tuple[tuple[str, str], ...]
    frequent_scores: dict[str, Score]


@refuses_exit
def contrast(
    model: VLM,
    samples: Rows,
    training: Rows,
    *,
    collate: Collator,
    metrics: Mapping[str, Metric],
    batch_size: int = 32,
    max_new_tokens: int = 32,
    limit: int | None = None,
    likelihood: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Contrast:
    """Ask a model as `evaluate` does, seeing and blind, and answer the same from `training`, without looking.

    What is asked blind that was asked seeing (the same words about the same images) is not asked again. `progress` is called
    with the number of questions asked so far, of which there are two for each sample. Raises as `evaluate` does.
    """
    asked = [samples[index] for index in evenly(len(samples), limit)]
    asker = Asker(model, collate, batch_size, max_new_tokens, likelihood)

    def evaluation(*, shuffled: bool, before: int) -> Evaluation:
        told = None if progress is None else lambda done, _: progress(before + done)
        return _evaluate(asker, asked, metrics, shuffled=shuffled, progress=told)

    seeing = evaluation(shuffled=False, before=0)
    blind = evaluation(shuffled=True, before=len(asked))
    guesses = most_frequent_answers((training[index] for index in range(len(training))), asked)
    frequent = tuple((_truth(sample), guess) for sample, guess in zip(asked, guesses, strict=True))
    return Contrast(seeing, blind, frequent, score_answers(frequent, metrics))


@refuses_exit
def evaluate(
    model: VLM,
    samples: Rows,
    *,
    collate: Collator,
    metrics: Mapping[str, Metric],
    batch_size: int = 32,
    max_new_tokens: int = 32,
    shuffled: bool = False,
    limit: int | None = None,
    likelihood: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Ask a model about each sample, and measure how likely it finds the true answer.

    Of a conversation with several answers the last is asked for, after the true ones before it; the loss is over all that its
    objective supervises. Generation is greedy. Rows of similar length share a batch; the size of the batches changes nothing
    but rounding. Each image is encoded once, and rows that are the same to the model are asked once.

    Args:
        model: the model; left in the mode it came in.
        samples: what to ask; each ends with what the assistant truly says.
        collate: the objective, template and transform that make batches (`training.samples.evaluation_collator`).
        metrics: by name.
        batch_size: samples at a time.
        max_new_tokens: where an answer is cut that does not end by itself.
        shuffled: show each sample the images of another one (`other_images`): the blind baseline.
        limit: ask about so many samples, evenly taken from all.
        likelihood: measure how likely the true answers are; without, there is no loss, and each row is read once, not twice.
        progress: called with the number of samples done and their number.

    Raises `DataError` naming the sample that cannot be used, or where images cannot be shuffled; `PluginError` where a metric
    gives no score from 0 to 1.
    """
    asked = [samples[index] for index in evenly(len(samples), limit)]
    asker = Asker(model, collate, batch_size, max_new_tokens, likelihood)
    return _evaluate(asker, asked, metrics, shuffled=shuffled, progress=progress)


def _evaluate(
    asker: Asker,
    asked: Sequence[Sample],
    metrics: Mapping[str, Metric],
    *,
    shuffled: bool,
    progress: Callable[[int, int], None] | None,
) -> Evaluation:
    if not asked:
        raise DataError("there is no sample to ask about")
    truths = [_truth(sample) for sample in asked]
    shown = other_images(asked) if shuffled else list(range(len(asked)))
    rows = [replace(sample, images=asked[other].images) for sample, other in zip(asked, shown, strict=True)]
    found = asker.ask(rows, progress)
    answers = tuple(
        Answer(
            id=sample.id,
            source=sample.source,
            shown=asked[shown[index]].id,
            question=_question(sample.turns[-2].text) if len(sample.turns) > 1 else "",
            truth=truths[index],
            said=said,
            nats=None if loss is None else loss[0],
            tokens=None if loss is None else loss[1],
            scores={name: _score(name, metric, truths[index], said) for name, metric in metrics.items()},
        )
        for index, (sample, (said, loss)) in enumerate(zip(asked, found, strict=True))
    )
    nats = [answer.nats for answer in answers if answer.nats is not None]
    tokens = sum(answer.tokens for answer in answers if answer.tokens is not None)
    return Evaluation(
        answers=answers,
        loss=sum(nats) / tokens if nats else None,
        tokens=tokens if nats else None,
        scores={name: mean_score([answer.scores[name] for answer in answers]) for name in metrics},
        shuffled=shuffled,
    )


def mean_score(scores: Sequence[float]) -> Score:
    """The mean, and its standard error: the sample's standard deviation over the root of their number."""
    n = len(scores)
    mean = sum(scores) / n
    error = None if n < 2 else sqrt(sum((score - mean) ** 2 for score in scores) / (n - 1) / n)
    return Score(mean, error, n)


def score_answers(pairs: Iterable[tuple[str, str]], metrics: Mapping[str, Metric]) -> dict[str, Score]:
    """The scores of answers that come from somewhere else: pairs of what is true and what was said."""
    pairs = list(pairs)
    return {name: mean_score([_score(name, metric, *pair) for pair in pairs]) for name, metric in metrics.items()}


def most_frequent_answers(training: Iterable[Sample], samples: Sequence[Sample]) -> list[str]:
    """What who never looks would say: for each sample the answer most often given to its question in the training data.

    A question that training never asks gets the answer most frequent of all. Ties go to the first in the order of code points.
    """
    by_question: dict[str, Counter[str]] = {}
    for sample in training:
        for question, answer in _exchanges(sample):
            by_question.setdefault(question, Counter())[answer] += 1
    overall = sum(by_question.values(), Counter())
    if not overall:
        raise DataError("the training data has no answer, so none is the most frequent")
    questions = [_question(sample.turns[-2].text) if len(sample.turns) > 1 else "" for sample in samples]
    return [_commonest(by_question.get(question, overall)) for question in questions]


def other_images(samples: Sequence[Sample]) -> list[int]:
    """For each sample the index of another one, whose images it is shown instead: a permutation, the same every time.

    Nobody sees what it would have seen: images are compared by their pixels, so two questions about one picture never swap.
    Images go only to samples with as many; a sample without images keeps its none.

    Raises `DataError` naming a sample where more than half of those with as many images show the same.
    """
    shown = list(range(len(samples)))
    for count in sorted({len(sample.images) for sample in samples} - {0}):
        blocks: dict[str, list[int]] = {}
        for index, sample in enumerate(samples):
            if len(sample.images) == count:
                blocks.setdefault(_pixels_digest(sample), []).append(index)
        largest = max(blocks.values(), key=len)
        total = sum(map(len, blocks.values()))
        if 2 * len(largest) > total:
            raise DataError(
                f"images cannot be shuffled: {len(largest)} of the {total} samples with {count} image{'s' * (count > 1)} show "
                f"the same ({samples[largest[0]].source} is one): evaluate on more pictures, or on fewer samples of this one"
            )
        places = torch.randperm(len(blocks), generator=keyed_generator(0, count, "shuffled images")).tolist()
        # Blocks of the same pictures, one after the other: a step as long as the longest leads out of each.
        order = [index for place in places for index in list(blocks.values())[place]]
        for position, index in enumerate(order):
            shown[index] = order[(position + len(largest)) % total]
    return shown


def _pixels_digest(sample: Sample) -> str:
    digest = hashlib.sha256()
    for load in sample.images:
        image = load()
        digest.update(f"{image.size}".encode() + image.tobytes())
    return digest.hexdigest()


def evenly(count: int, limit: int | None) -> list[int]:
    """The indexes of at most `limit` samples, evenly taken from all of them."""
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def _truth(sample: Sample) -> str:
    if not sample.turns or sample.turns[-1].role != "assistant":
        raise DataError(f"{sample.source}: the last turn is not the assistant's, so there is no true answer to compare with")
    return sample.turns[-1].text


def _question(text: str) -> str:
    return text.replace(IMAGE, "").strip()


def _exchanges(sample: Sample) -> Iterator[tuple[str, str]]:
    """Each answer of a conversation with the question before it."""
    for number, turn in enumerate(sample.turns):
        if turn.role == "assistant":
            yield _question(sample.turns[number - 1].text) if number else "", turn.text


def _commonest(answers: Counter[str]) -> str:
    return min(answers, key=lambda answer: (-answers[answer], answer))


def _score(name: str, metric: Metric, truth: str, said: str) -> float:
    score = float(metric.score(truth, said))
    if not 0 <= score <= 1:
        raise PluginError(f"metric `{name}` scores {said!r:.60} for the truth {truth!r:.60} as {score}; it must be from 0 to 1")
    return score
