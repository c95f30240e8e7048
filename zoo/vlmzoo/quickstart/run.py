"""The quickstart: train a connector between real pretrained parts on real pictures, and see whether the words follow them.

What the model says of pictures it never saw stands beside what it says when the pictures are shuffled among the questions:
only the difference between the two can come from looking.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from vlmzoo.checkpoint import load
from vlmzoo.config import Recipe, load_recipe
from vlmzoo.data.encode import IGNORE
from vlmzoo.manifest import read_manifest
from vlmzoo.model.vlm import VLM
from vlmzoo.quickstart.assets import QuickstartAssets, prepare
from vlmzoo.quickstart.words import Names
from vlmzoo.say import say
from vlmzoo.training.train import make_collator, recipe_digest, train
from vlmzoo_registry import ResourceError, Sample

RECIPE = Path(__file__).parent / "recipe.yaml"
GENERATED = 12  # tokens; the longest name in the data has fewer


@dataclass(frozen=True)
class Answer:
    """One held-out picture: its name, what the model says of it, and what it says shown another one.

    The losses are those of the true name (nats per token), with its picture and with the other.
    """

    truth: str
    says: str
    shuffled: str
    loss: float
    shuffled_loss: float


@dataclass(frozen=True)
class Score:
    """Shares of the held-out pictures: the exact name, a word of the name or of its tags, the right group (animal or food)."""

    exact: float
    word: float
    group: float


@dataclass(frozen=True)
class QuickstartResult:
    """What came out, with the pictures and with the pictures shuffled.

    `differ` is the share of pictures of which the model says something else than of another one; `likelier` the share whose
    true name is likelier with its own picture than with another's (chance: one half).
    """

    answers: tuple[Answer, ...]
    true: Score
    shuffled: Score
    differ: float
    likelier: float
    checkpoint: Path


def quickstart(output: Path, *, overrides: Sequence[str] = (), console: Console | None = None) -> QuickstartResult:
    """Train (or take up a finished run in `output`), then let the model name every held-out picture.

    Raises `ResourceError` with the commands to run where the pretrained parts are not installed, and where `output` holds a
    run of another recipe.
    """
    say = (lambda line: None) if console is None else (lambda line: console.print(line, soft_wrap=True))
    assets = prepare(say)
    recipe = load_recipe(RECIPE, [*placed(assets), *overrides])
    folder = output / recipe.stages[0].name / "checkpoint"
    if folder.is_dir():
        if read_manifest(folder).extra.get("recipe_sha256") != recipe_digest(recipe):
            raise ResourceError(
                f"`{folder}` was trained by another recipe than this one (other parts, steps or paths): choose another "
                "`--output` to train this one, or repeat the earlier command to see that one again"
            )
        say(f"Trained already: {folder} (another --output trains again).")
        model = load(folder)
    else:
        model = train(recipe, output=output, console=console).model
    names = Names(read_labels(assets.labels))
    held_out = heldout_samples(recipe)
    say(f"Asking about {len(held_out)} pictures that were held out, and about the same ones shuffled ...")
    answers = ask(model, recipe, held_out)
    result = QuickstartResult(
        answers=answers,
        true=score([(a.truth, a.says) for a in answers], names),
        shuffled=score([(a.truth, a.shuffled) for a in answers], names),
        differ=sum(a.says != a.shuffled for a in answers) / len(answers),
        likelier=sum(a.loss < a.shuffled_loss for a in answers) / len(answers),
        checkpoint=folder,
    )
    record = {**asdict(result), "checkpoint": str(folder)}
    (output / "held_out.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


def placed(assets: QuickstartAssets) -> list[str]:
    """The overrides that say where the parts and the pictures lie on this machine."""
    return [
        f"model.vision.weights={json.dumps(str(assets.vision / 'model.safetensors'))}",
        f"model.language.model={json.dumps(str(assets.language))}",
        f"stages.0.data.0.sheet={json.dumps(str(assets.sheet))}",
        f"stages.0.data.0.labels={json.dumps(str(assets.labels))}",
    ]


def heldout_samples(recipe: Recipe) -> list[Sample]:
    """The other side of the split that the recipe trains on."""
    choice = recipe.stages[0].data[0]
    dataset = choice.component.load_factory()(choice.config.model_copy(update={"split": "heldout"}))
    return [dataset[index] for index in range(len(dataset))]


def ask(model: VLM, recipe: Recipe, samples: Sequence[Sample], batch_size: int = 32) -> tuple[Answer, ...]:
    """What the model says of each sample, and of each with the picture of another: a fixed permutation, nobody keeps theirs."""
    collate = make_collator(model, recipe.stages[0])
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    other = {order[index]: samples[order[index - 1]] for index in range(len(order))}
    said: dict[str, list[str]] = {"true": [], "shuffled": []}
    losses: dict[str, list[float]] = {"true": [], "shuffled": []}
    for start in range(0, len(samples), batch_size):
        indices = range(start, min(start + batch_size, len(samples)))
        for kind in said:
            shown = [samples[i] if kind == "true" else _with_images(samples[i], other[i]) for i in indices]
            said[kind] += say(model, collate.prompts(shown), GENERATED)
            losses[kind] += name_losses(model, collate(shown))
    return tuple(
        Answer(
            truth=sample.turns[-1].text,
            says=said["true"][index],
            shuffled=said["shuffled"][index],
            loss=losses["true"][index],
            shuffled_loss=losses["shuffled"][index],
        )
        for index, sample in enumerate(samples)
    )


def name_losses(model: VLM, batch: dict[str, Tensor]) -> list[float]:
    """The mean loss of each row's supervised tokens."""
    labels = batch.pop("labels")[:, 1:]
    with torch.inference_mode():
        logits = model(**batch).logits[:, :-1].float()
    token_losses = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # 0 where ignored
    return (token_losses.sum(dim=1) / (labels != IGNORE).sum(dim=1)).tolist()


def score(pairs: Sequence[tuple[str, str]], names: Names) -> Score:
    """How well what was said fits the true names."""
    count = len(pairs)
    return Score(
        exact=sum(said == truth for truth, said in pairs) / count,
        word=sum(names.shares_a_word(truth, said) for truth, said in pairs) / count,
        group=sum(names.group_of(said) == names.group_of(truth) for truth, said in pairs) / count,
    )


def read_labels(path: Path) -> list[dict[str, Any]]:
    """The labels of the sheet."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def show(result: QuickstartResult, console: Console, rows: int = 16) -> None:
    """The table of held-out pictures, evenly taken from all of them, and the shares over all."""
    table = Table(title="Pictures never seen in training", title_justify="left", box=None, pad_edge=False)
    for column in ("truth", "the model says", "with another picture"):
        table.add_column(column, overflow="ellipsis", no_wrap=True, max_width=24)
    step = max(1, len(result.answers) // rows)
    for answer in result.answers[::step][:rows]:
        table.add_row(*(" ".join(text.split()) for text in (answer.truth, answer.says, answer.shuffled)))
    console.print(table)
    console.print()
    shares = Table(title=f"Over all {len(result.answers)} of them", title_justify="left", box=None, pad_edge=False)
    for column in ("", "right group", "a word of the name or its tags", "exact name"):
        shares.add_column(column, justify="right" if column else "left")
    for name, scored in (("with its picture", result.true), ("with another's picture", result.shuffled)):
        shares.add_row(name, f"{scored.group:.2f}", f"{scored.word:.2f}", f"{scored.exact:.2f}")
    console.print(shares)
    console.print()
    console.print(f"What it says changes with the picture in {result.differ:.0%} of the cases.")
    console.print(f"The true name is likelier with its own picture than with another's in {result.likelier:.0%} (chance: 50%).")


def _with_images(sample: Sample, other: Sample) -> Sample:
    return Sample(id=sample.id, turns=sample.turns, images=other.images, source=sample.source)
