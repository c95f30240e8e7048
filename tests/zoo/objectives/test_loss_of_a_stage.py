"""What a stage adds to the loss: weights of datasets, label smoothing, z-loss; held to a computation of its own from logits."""

from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_models import BERT, LLAMA, MASKED_LM, collator, gradients, model, samples
from torch.nn import functional

from vlmzoo.asker import answer_losses
from vlmzoo.config import load_recipe
from vlmzoo.data import Draw
from vlmzoo.labels import labels
from vlmzoo.training import fit as fitting
from vlmzoo.training.history import read_log
from vlmzoo.training.micro_batch import read_micro_batch
from vlmzoo.training.processes import join_processes
from vlmzoo.training.samples import stage_samples
from vlmzoo.training.train import train
from vlmzoo.training.trainable import set_trainable
from vlmzoo.training.update import GlobalBatch
from vlmzoo_registry import ConfigError

CAUSAL = {"name": "transformers/causal-lm", "config": LLAMA}
TEXTS = ("The rain came early in the year.\n\nIt filled the river.\n\nNobody crossed for a week.\n", "A boat.\n\nIt is old.\n")


def recipe(folder: Path, *, language: dict[str, Any] = CAUSAL, objective: Any = "text", **stage: Any) -> dict[str, Any]:
    """A stage over two text files."""
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    return {
        "model": {
            "architecture": "unified",
            "vision": "toy/vision",
            "connector": "connectors/mlp",
            "language": language,
            "template": "plain",
        },
        "stages": [
            {
                "name": "first",
                "objective": objective,
                "data": [{"name": "paragraphs", "path": str(folder / f"{number}.txt")} for number in range(2)],
                "train": {"language": {"lr": 1e-3}},
                "batch_size": 4,
                "steps": 4,
                "log_every": 1,
                **stage,
            }
        ],
    }


class Killed(BaseException):
    """Stands for a kill where the process goes on."""


def update(built, plan):
    """The gradients of a global batch as training makes them."""
    stage = plan.stages[0]
    states = set_trainable(built, dict(stage.train))
    built.eval()  # no dropout
    collate = collator(built, stage.objective.component.spec.name)
    return GlobalBatch(join_processes(), built, states, stage), collate


@pytest.mark.parametrize("micro_batch", [5, 1])
def test_weights_of_datasets_scale_their_tokens_and_not_the_count(tmp_path, micro_batch):
    built = model(CAUSAL)
    plan = load_recipe(recipe(tmp_path, loss_weights=[0.2, 1.0], batch_size=5, micro_batch=micro_batch))
    data = stage_samples(plan.stages[0])
    rows = [data[index] for index in range(5)]
    assert [row.weight for row in rows] == [0.2] * 3 + [1.0] * 2
    batch, collate = update(built, plan)
    shares = [[Draw(0, index) for index in range(start, start + micro_batch)] for start in range(0, 5, micro_batch)]
    result = batch.backward([read_micro_batch(data, collate, share) for share in shares])
    found = gradients(built)
    built.zero_grad()
    total, tokens, plain = 0.0, 0, 0.0
    for row in rows:
        one = collate([replace(row, weight=1.0)])
        labels = one.pop("labels")
        logits = built(**one).logits[:, :-1]
        nll = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
        total = total + row.weight * nll
        plain += float(nll.detach())
        tokens += int((labels[:, 1:] != -100).sum())
    (total / tokens).backward()
    assert result.tokens == tokens
    assert result.loss == pytest.approx(float(total.detach()) / tokens, rel=1e-5)
    assert result.nll == pytest.approx(plain / tokens, rel=1e-5)
    for name, expected in gradients(built).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("language", [CAUSAL, MASKED_LM], ids=["labels", "targets"])
def test_smoothing_and_z_loss_are_those_of_their_formulas(language, tmp_path):
    built = model(language)
    objective, template = ("text", "plain") if language is CAUSAL else ("masked", "pair")
    batch = collator(built, objective, template=template)(samples())
    logits = built(**batch, logits_to_keep=0).logits.detach()
    shift = int("labels" in batch)
    targets = batch["labels" if shift else "targets"][:, shift:].flatten()
    logits = logits[:, : logits.shape[1] - shift].flatten(0, 1)
    smoothed = functional.cross_entropy(logits, targets, label_smoothing=0.1)
    log_z = logits.logsumexp(dim=1)[targets != -100]
    expected = smoothed + 1e-2 * log_z.square().mean()
    found = built(**batch, label_smoothing=0.1, z_loss=1e-2)
    torch.testing.assert_close(found.loss.detach(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.z, log_z.square().sum(), rtol=1e-5, atol=1e-4)
    assert float(built(**batch).loss.detach()) != pytest.approx(float(expected), rel=1e-3)


def test_a_stage_passes_them_on_and_the_log_says_so(tmp_path):
    terms = {"label_smoothing": 0.1, "z_loss": 1e-3}
    plain = train(recipe(tmp_path), output=tmp_path / "plain")
    with_terms = train(recipe(tmp_path, **terms), output=tmp_path / "terms")
    logs = {name: read_log(tmp_path / name / "first") for name in ("plain", "terms")}
    first = {name: log.steps[0] for name, log in logs.items()}
    assert first["plain"]["loss"] == pytest.approx(first["plain"]["nll"], rel=1e-6)
    assert first["terms"]["nll"] == pytest.approx(first["plain"]["nll"], rel=1e-6)
    assert first["terms"]["loss"] > first["plain"]["loss"] + 1e-3 * 0.9 * first["terms"]["z"]
    assert {key: logs["terms"].stage[key] for key in terms} == terms
    assert plain.losses != with_terms.losses


def test_as_many_weights_as_datasets(tmp_path):
    with pytest.raises(ConfigError, match=r"stages\.0\.loss_weights: has 3 weights, and `data` 2 datasets: give one for each"):
        load_recipe(recipe(tmp_path, loss_weights=[1.0, 1.0, 1.0]))
    with pytest.raises(ConfigError, match=r"loss_weights\.1: must be greater than 0"):
        load_recipe(recipe(tmp_path, loss_weights=[1.0, 0.0]))


MASKED = {"name": "masked", "share": 0.3}
STILL = {**MASKED_LM, "config": BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}


def test_draws_are_the_same_however_a_batch_is_split_and_differ_between_epochs(tmp_path):
    given = recipe(tmp_path, language=STILL, objective=MASKED)
    losses = []
    for micro_batch in (4, 2, 1):
        given["stages"][0]["micro_batch"] = micro_batch
        losses.append(train(given, output=tmp_path / str(micro_batch)).losses)
    assert all(isclose(a, b, rel_tol=1e-4) for other in losses[1:] for a, b in zip(losses[0], other, strict=True))

    built = model(MASKED_LM)
    row = samples()[1]
    first = collator(built, "masked", template="pair").encode(row)
    for collate, sample, same in (
        (collator(built, "masked", template="pair"), row, True),
        (collator(built, "masked", template="pair", seed=1), row, False),
        (collator(built, "masked", template="pair"), replace(row, epoch=1), False),
        (collator(built, "masked", template="pair"), replace(row, id="other"), False),
    ):
        collate([*samples()])  # what was drawn before changes nothing
        torch.rand(3)
        assert torch.equal(collate.encode(sample).labels, first.labels) == same


def test_a_stopped_run_draws_what_it_would_have_drawn(tmp_path, monkeypatch):
    given = recipe(tmp_path, language=MASKED_LM, objective=MASKED, save_every=2)
    straight = train(given, output=tmp_path / "straight")

    advance = fitting.StepProgress.advance

    seen = 0

    def counting(self: Any, loss: float, seconds: float) -> None:
        nonlocal seen
        advance(self, loss, seconds)
        seen += 1
        if seen == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fitting.StepProgress, "advance", counting)
        with pytest.raises(Killed):
            train(given, output=tmp_path / "stopped")
    assert train(given, output=tmp_path / "stopped").losses == straight.losses
    assert len(set(straight.losses)) == 4


@pytest.mark.parametrize("objective", ["text", "masked"])
def test_evaluation_counts_what_training_counts(objective):
    built = model(MASKED_LM if objective == "masked" else CAUSAL)
    batch = collator(built, objective, template="pair")([replace(row, weight=0.5) for row in samples()])
    learnt = {name: value for name, value in batch.items() if name != "sample_weights"}
    found = answer_losses(built, dict(batch))
    assert sum(nats for nats, _ in found) == pytest.approx(float(built(**learnt).nll), rel=1e-5)
    supervised = batch["labels" if objective == "text" else "targets"] != -100
    assert [count for _, count in found] == supervised.sum(dim=1).tolist()


def test_labels_shows_what_is_hidden(tmp_path):
    shown = labels(recipe(tmp_path, language=MASKED_LM, objective=MASKED), samples=2)
    for row in shown.rows:
        assert 0 < row.supervised < row.tokens / 2
