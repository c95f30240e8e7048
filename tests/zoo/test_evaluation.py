"""Evaluation: losses against a second computation in float64, answers against the processor's way, and honest baselines."""

import math
from functools import partial
from statistics import stdev

import pytest
import torch
from PIL import Image
from small_models import GPT2, LLAMA, causal_lm, picture, section, shake
from torch.nn import functional

import vlmzoo
from vlmzoo import asker
from vlmzoo.asker import answer_losses
from vlmzoo.data import Collator
from vlmzoo.evaluation import (
    Score,
    contrast,
    evaluate,
    mean_score,
    most_frequent_answers,
    other_images,
    score_answers,
)
from vlmzoo.feature_cache.in_memory import EncodingReader
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError, Metric, NoOptions, PluginError, Sample, Turn
from vlmzoo_tasks.caption import CaptionObjective
from vlmzoo_tasks.exact import ExactMetric
from vlmzoo_tasks.words import WordsMetric

METRICS = {"exact": ExactMetric(NoOptions()), "words": WordsMetric(NoOptions())}
TRUTHS = ["a red cat", "two", "rain on the old hill", "why", "seven blue birds on a wire", "no", "it is late"]


def sample(number: int, truth: str, *, seed: int | None = None, question: str = "") -> Sample:
    turns = (Turn("user", f"<image>{question}"), Turn("assistant", truth))
    images = (partial(picture, number if seed is None else seed),)
    return Sample(id=f"row-{number}", turns=turns, images=images, source=f"rows.jsonl:{number + 1}")


def collator(model: VLM) -> Collator:
    processor = model.processor
    return Collator(
        objective=CaptionObjective(NoOptions()),
        template=processor.template,
        tokenizer=processor.tokenizer,
        image_token=processor.image_token,
        images=processor.images,
        max_length=128,
    )


@pytest.fixture(
    scope="module",
    params=[
        ("unified", causal_lm(LLAMA)),
        ("cross_attention", causal_lm(GPT2)),
    ],
    ids=["unified-llama", "cross-gpt2"],
)
def model(request: pytest.FixtureRequest) -> VLM:
    torch.manual_seed(0)
    architecture, language = request.param
    return shake(vlmzoo.build(section(architecture, language=language)))


# Prompts of three lengths, in no order: where they share a batch they are padded.
SAMPLES = [sample(number, truth, question=["", "What?", "Which one is it?"][number % 3]) for number, truth in enumerate(TRUTHS)]


def test_losses_are_those_of_each_row_alone(model):
    collate = collator(model)
    evaluation = evaluate(model, SAMPLES, collate=collate, metrics=METRICS, batch_size=3, max_new_tokens=2)
    assert [answer.id for answer in evaluation.answers] == [row.id for row in SAMPLES]
    for row, answer in zip(SAMPLES, evaluation.answers, strict=True):
        batch = collate([row])
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model(**batch).logits
        nats = functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
        assert answer.nats == pytest.approx(float(nats), rel=1e-5)
        assert answer.tokens == int((labels != -100).sum()) >= 2
    total = sum(answer.nats for answer in evaluation.answers)
    assert evaluation.tokens == sum(answer.tokens for answer in evaluation.answers)
    assert evaluation.loss == pytest.approx(total / evaluation.tokens, rel=1e-12)
    # The loss of training over all rows at once is the same mean.
    with torch.no_grad():
        trained = model(**collate(SAMPLES)).loss
    assert evaluation.loss == pytest.approx(float(trained), rel=1e-5)


def test_answers_are_what_generate_says_of_each_row_alone(model):
    evaluation = evaluate(model, SAMPLES, collate=collator(model), metrics=METRICS, batch_size=4, max_new_tokens=6)
    for row, answer in zip(SAMPLES, evaluation.answers, strict=True):
        batch = model.processor(text=answer.question, images=[row.images[0]()])
        ids = model.generate(**batch, max_new_tokens=6, do_sample=False)
        assert answer.said == model.processor.decode(ids, prompt_length=batch["input_ids"].shape[1])[0]
        assert answer.truth == row.turns[-1].text
        assert answer.shown == answer.id
        assert answer.scores == {name: metric.score(answer.truth, answer.said) for name, metric in METRICS.items()}
    assert len({answer.said for answer in evaluation.answers}) > 1


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_size_of_batches_changes_nothing(model, shuffled):
    runs = [
        evaluate(model, SAMPLES, collate=collator(model), metrics=METRICS, batch_size=size, max_new_tokens=5, shuffled=shuffled)
        for size in (1, 2, 3, 7, 50)
    ]
    for run in runs[1:]:
        assert [answer.said for answer in run.answers] == [answer.said for answer in runs[0].answers]
        assert [answer.shown for answer in run.answers] == [answer.shown for answer in runs[0].answers]
        assert run.loss == pytest.approx(runs[0].loss, rel=1e-6)
        assert run.scores == runs[0].scores


def test_shuffled_is_the_same_questions_with_the_images_of_others(model):
    collate = collator(model)
    blind = evaluate(model, SAMPLES, collate=collate, metrics=METRICS, max_new_tokens=4, shuffled=True)
    assert blind.shuffled
    by_id = {row.id: row for row in SAMPLES}
    for row, answer in zip(SAMPLES, blind.answers, strict=True):
        assert answer.shown != answer.id
        swapped = Sample(row.id, row.turns, by_id[answer.shown].images, row.source)
        (nats, tokens), *_ = answer_losses(model, collate([swapped]))
        assert (answer.nats, answer.tokens) == (pytest.approx(nats, rel=1e-6), tokens)
    assert sorted(answer.shown for answer in blind.answers) == sorted(by_id)
    seeing = evaluate(model, SAMPLES, collate=collate, metrics=METRICS, max_new_tokens=4)
    assert blind.loss != pytest.approx(seeing.loss, rel=1e-6)


def test_the_model_is_left_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    calls = []
    arguments = {"collate": collator(model), "metrics": {}, "max_new_tokens": 1}
    evaluate(model, SAMPLES, **arguments, batch_size=3, progress=lambda done, total: calls.append((done, total)))
    assert model.training
    assert calls == [(3, 7), (6, 7), (7, 7)]
    model.eval()
    evaluate(model, SAMPLES[:1], **arguments)
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_dropout_is_off_while_it_evaluates():
    torch.manual_seed(0)
    model = vlmzoo.build(section(language=causal_lm({**GPT2, "resid_pdrop": 0.5, "embd_pdrop": 0.5})))
    model.train()
    losses = {evaluate(model, SAMPLES, collate=collator(model), metrics={}, max_new_tokens=1).loss for _ in range(2)}
    assert len(losses) == 1


def test_a_limit_takes_samples_evenly(model):
    few = evaluate(model, SAMPLES, collate=collator(model), metrics={}, max_new_tokens=1, limit=3)
    assert [answer.id for answer in few.answers] == ["row-0", "row-2", "row-4"]
    more = evaluate(model, SAMPLES[:2], collate=collator(model), metrics={}, max_new_tokens=1, limit=3)
    assert [answer.id for answer in more.answers] == ["row-0", "row-1"]


def test_of_a_conversation_the_last_answer_is_asked_for():
    class Asked(Metric):
        def __init__(self):
            self.pairs = []

        def score(self, truth, said):
            self.pairs.append((truth, said))
            return 0.25

    torch.manual_seed(0)
    model = vlmzoo.build(section())
    asked = Asked()
    row = sample(0, "a hill", question="What is\nthis?")
    evaluation = evaluate(model, [row], collate=collator(model), metrics={"asked": asked}, max_new_tokens=2)
    (answer,) = evaluation.answers
    assert (answer.question, answer.truth) == ("What is\nthis?", "a hill")
    assert asked.pairs == [("a hill", answer.said)]
    assert evaluation.scores == {"asked": Score(0.25, None, 1)}


def test_what_cannot_be_asked_is_named(model):
    collate = collator(model)
    silent = Sample("row-9", (Turn("user", "<image>"),), (partial(picture, 1),), "rows.jsonl:10")
    with pytest.raises(DataError, match=r"rows\.jsonl:10: the last turn is not the assistant's"):
        evaluate(model, [silent], collate=collate, metrics={})
    with pytest.raises(DataError, match="there is no sample to ask about"):
        evaluate(model, [], collate=collate, metrics={})

    class Generous(Metric):
        def score(self, truth, said):
            return 1.5

    with pytest.raises(PluginError, match=r"metric `generous` scores .* for the truth 'two' as 1\.5; it must be from 0 to 1"):
        evaluate(model, [sample(1, "two")], collate=collate, metrics={"generous": Generous()}, max_new_tokens=1)


def test_images_are_shuffled_between_different_pictures():
    questions = [sample(number, "x", seed=number // 3) for number in range(12)]  # three questions about each picture
    shown = other_images(questions)
    assert sorted(shown) == list(range(12))
    assert all(shown[index] // 3 != index // 3 for index in range(12))
    # The questions about a picture are all shown the same other one.
    assert all(len({shown[3 * block + place] // 3 for place in range(3)}) == 1 for block in range(4))
    assert other_images(questions) == shown
    assert shown != [(index + 3) % 12 for index in range(12)]


@pytest.mark.parametrize("seed", range(20))
def test_nobody_keeps_a_picture_however_they_repeat(seed):
    draws = torch.randint(0, 5, (17,), generator=torch.Generator().manual_seed(seed)).tolist()
    rows = [sample(number, "x", seed=picked) for number, picked in enumerate(draws)]
    if 2 * max(draws.count(picked) for picked in draws) > len(draws):
        pytest.skip("more than half show the same picture")
    shown = other_images(rows)
    assert sorted(shown) == list(range(17))
    assert all(draws[shown[index]] != draws[index] for index in range(17))


def test_images_go_to_samples_with_as_many():
    none = Sample("none", (Turn("user", "What?"), Turn("assistant", "x")), (), "rows.jsonl:1")
    pairs = [
        Sample(f"pair-{n}", (Turn("user", "<image><image>"), Turn("assistant", "x")), (partial(picture, n),) * 2, f"rows:{n}")
        for n in range(2)
    ]
    rows = [none, sample(1, "x"), pairs[0], sample(2, "x"), pairs[1]]
    assert other_images(rows) == [0, 3, 4, 1, 2]
    with pytest.raises(DataError, match=r"2 of the 3 samples with 1 image show the same \(rows\.jsonl:1 is one\)"):
        other_images([sample(0, "x", seed=1), sample(1, "x", seed=1), sample(2, "x")])
    # Of one size in bytes but another shape: not the same picture.
    wide, high = Image.new("RGB", (2, 8)), Image.new("RGB", (8, 2))
    rows = [Sample(str(n), (), (lambda image=image: image,), "s") for n, image in enumerate((wide, high))]
    assert other_images(rows) == [1, 0]


def test_the_most_frequent_answer_is_that_of_the_question():
    training = [
        *(sample(n, "yes", question="Alive?") for n in range(3)),
        sample(3, "no", question="Alive?"),
        Sample(
            "chat",
            (
                Turn("user", "<image>\nName?"),
                Turn("assistant", "owl"),
                Turn("user", "Kind?"),
                Turn("assistant", "bird"),
            ),
            (),
            "s",
        ),
        sample(5, "ant", question="Name?"),
    ]
    held_out = [sample(0, "ox", question=question) for question in ("Alive?", "Name?", "Kind?", "Colour?")]
    assert most_frequent_answers(training, held_out) == ["yes", "ant", "bird", "yes"]
    with pytest.raises(DataError, match="has no answer"):
        most_frequent_answers([], held_out)
    pairs = [("ox", "ox"), ("ox", "an ox"), ("ox", "owl"), ("ox", "Ox.")]
    scores = score_answers(pairs, METRICS)
    assert scores["exact"] == Score(0.5, pytest.approx(stdev([1, 0, 0, 1]) / math.sqrt(4)), 4)
    assert scores["words"].mean == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)


def test_a_contrast_is_both_evaluations_and_the_most_frequent_answers(model):
    training = [sample(n, truth, question="What?") for n, truth in enumerate(["two", "no", "two"])]
    done: list[int] = []
    options = {"collate": collator(model), "metrics": METRICS, "batch_size": 2, "max_new_tokens": 3, "limit": 4}
    found = contrast(model, SAMPLES, training, **options, progress=done.append)
    assert found.seeing == evaluate(model, SAMPLES, **options)
    assert found.blind == evaluate(model, SAMPLES, **options, shuffled=True)
    assert found.frequent == tuple((TRUTHS[index], "two") for index in (0, 1, 3, 5))
    assert (found.frequent_scores["exact"].mean, found.frequent_scores["exact"].n) == (0.25, 4)
    assert done == [2, 4, 6, 8]


class Counted:
    """Counts the rows of which a model generates, and those that its encoder and its loss see."""

    def __init__(self, model: VLM, patch: pytest.MonkeyPatch) -> None:
        self.said = self.measured = self.encoded = 0
        generate, see, forward = model.generate, model.see, asker.answer_losses

        def generating(**batch):
            self.said += len(batch["input_ids"])
            return generate(**batch)

        def seeing(pixels):
            self.encoded += len(pixels)
            return see(pixels)

        def measuring(model, batch):
            self.measured += len(batch["input_ids"])
            return forward(model, batch)

        patch.setattr(model, "generate", generating)
        patch.setattr(model, "see", seeing)
        patch.setattr(asker, "answer_losses", measuring)


# Three pictures with two rows each, the same question throughout: to the model there are three prompts, seeing or blind.
TWICE = [sample(number, truth, seed=number % 3, question="What?") for number, truth in enumerate(TRUTHS[:6])]


def test_what_is_the_same_to_the_model_is_asked_once(model, monkeypatch):
    options = {"collate": collator(model), "metrics": METRICS, "batch_size": 2, "max_new_tokens": 3}
    with monkeypatch.context() as patch:
        counted = Counted(model, patch)
        found = contrast(model, TWICE, TWICE, **options)
    # Three prompts and pictures; six rows with their own answers, six with those of other pictures.
    assert (counted.said, counted.encoded, counted.measured) == (3, 3, 12)
    by_picture = {answer.id: answer.said for answer in found.seeing.answers}
    assert [answer.said for answer in found.blind.answers] == [by_picture[answer.shown] for answer in found.blind.answers]
    # As one by one, each with an encoder that sees it.
    for row, answer in zip(TWICE, found.seeing.answers, strict=True):
        (alone,) = evaluate(model, [row], **options).answers
        assert answer.said == alone.said
        assert answer.nats == pytest.approx(alone.nats, rel=1e-5)


def test_without_likelihoods_only_answers_are_made(model, monkeypatch):
    options = {"collate": collator(model), "metrics": METRICS, "batch_size": 4, "max_new_tokens": 3}
    whole = contrast(model, SAMPLES, SAMPLES, **options)
    done: list[int] = []
    with monkeypatch.context() as patch:
        counted = Counted(model, patch)
        found = contrast(model, SAMPLES, SAMPLES, **options, likelihood=False, progress=done.append)
    assert counted.measured == 0
    for one, other in ((found.seeing, whole.seeing), (found.blind, whole.blind)):
        assert [answer.said for answer in one.answers] == [answer.said for answer in other.answers]
        assert (one.scores, one.loss, one.tokens) == (other.scores, None, None)
        assert {(answer.nats, answer.tokens) for answer in one.answers} == {(None, None)}
    assert done[-1] == 14


def test_features_that_would_take_too_much_are_made_again(model, monkeypatch):
    options = {"metrics": METRICS, "batch_size": 2, "max_new_tokens": 3}
    reader = EncodingReader(model, model.processor.images, most_bytes=0)
    with monkeypatch.context() as patch:
        counted = Counted(model, patch)
        found = evaluate(model, SAMPLES, collate=collator(model).reading(reader), **options)
    assert counted.encoded == 2 * len(SAMPLES)
    kept = evaluate(model, SAMPLES, collate=collator(model), **options)
    assert [answer.said for answer in found.answers] == [answer.said for answer in kept.answers]


def test_the_standard_error_is_that_of_a_mean():
    values = [0.0, 1.0, 1.0, 0.5, 0.25]
    assert mean_score(values) == Score(0.55, pytest.approx(stdev(values) / math.sqrt(5)), 5)
    assert mean_score([0.5]) == Score(0.5, None, 1)
