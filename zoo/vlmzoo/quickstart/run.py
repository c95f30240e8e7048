"""The quickstart: train a model of real pretrained parts on real pictures, and see whether its words follow them.

Two things are held out: concepts (no style of them is trained on) and a drawing style. What the model says of these
pictures stands beside what it says of others: only the difference between the two can come from looking.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vlmzoo.config import Choice, Recipe, load_choice, load_recipe
from vlmzoo.durable import replace_json
from vlmzoo.evaluation import Answer, Evaluation, Score, contrast, mean_score
from vlmzoo.model.vlm import VLM
from vlmzoo.quickstart.assets import QuickstartAssets, prepare
from vlmzoo.quickstart.families import GROUPS
from vlmzoo.training.samples import Samples, evaluation_collator, stage_samples
from vlmzoo.training.train import train
from vlmzoo_registry import Dataset, Metric

RECIPE = Path(__file__).parent / "recipe.yaml"
RESULTS, REPORT = "results.json", "report.html"

ASKED = 241
"""Pictures of each held-out set that are asked about, evenly taken from all: enough for a standard error of .03.

A prime, so that of two sheets with the same concepts in the same order not the same ones are taken.
"""

GENERATED = 16
"""Tokens at most; the longest answers in the data have fewer."""


@dataclass(frozen=True)
class HeldOut:
    """Pictures that were not trained on, and one question about them."""

    name: str
    question: str
    samples: Samples


@dataclass(frozen=True)
class Asked:
    """What came of a question about held-out pictures: seeing, blind (shown other pictures), and without looking at all.

    `frequent` are pairs of what is true and the answer that was most often right in training, `frequent_score` is their share
    of exact answers.
    """

    name: str
    question: str
    seeing: Evaluation
    blind: Evaluation
    frequent: tuple[tuple[str, str], ...]
    frequent_score: Score

    @property
    def score(self) -> Score:
        """The share of exact answers to the right pictures."""
        return self.seeing.scores["exact"]

    @property
    def blind_score(self) -> Score:
        """That to other pictures."""
        return self.blind.scores["exact"]


@dataclass(frozen=True)
class QuickstartResult:
    """The trained model's checkpoint, and what it said: one entry for each held-out set and question."""

    checkpoint: Path
    asked: tuple[Asked, ...]


def quickstart(output: Path, *, overrides: Sequence[str] = (), console: Console | None = None) -> QuickstartResult:
    """Train (or take up the run in `output`), ask about held-out pictures, and write `results.json` and `report.html`.

    Raises `ResourceError` with the commands to run where the parts or pictures are not installed, and where `output` holds a
    run of another recipe.
    """
    from vlmzoo.quickstart.report import write_report

    say = (lambda line: None) if console is None else (lambda line: console.print(line, soft_wrap=True))
    assets = prepare(say)
    recipe = load_recipe(RECIPE, [*placed(assets), *overrides])
    trained = train(recipe, output=output, console=console)
    asked = tuple(ask(trained.model, recipe, assets, console))
    result = QuickstartResult(trained.checkpoint, asked)
    record = {"checkpoint": str(trained.checkpoint), "asked": [_plain(entry) for entry in asked]}
    replace_json(output / RESULTS, record)
    write_report(result, recipe, assets, output / REPORT)
    return result


def placed(assets: QuickstartAssets) -> list[str]:
    """The overrides that say where the parts and the pictures lie on this machine."""
    overrides = [
        f"model.vision.weights={json.dumps(str(assets.vision / 'model.safetensors'))}",
        f"model.language.model={json.dumps(str(assets.language))}",
    ]
    for index, pictures in enumerate((assets.noto, assets.openmoji, assets.noto, assets.openmoji)):
        overrides.append(f"stages.0.data.{index}.sheet={json.dumps(str(pictures.sheet))}")
        overrides.append(f"stages.0.data.{index}.labels={json.dumps(str(pictures.labels))}")
    return overrides


def held_out(recipe: Recipe, assets: QuickstartAssets) -> tuple[HeldOut, ...]:
    """For every question that the recipe trains: the concepts it holds out, and those it trains on in another style."""
    sheets: dict[str, list[Choice]] = {}
    for choice in recipe.stages[0].data:
        options: Any = choice.config
        sheets.setdefault(options.prompt, []).append(choice)
    unseen = {"sheet": assets.twemoji.sheet, "labels": assets.twemoji.labels}
    concepts = [
        HeldOut("unseen concepts", question, Samples([_dataset(choice, split="heldout") for choice in choices]))
        for question, choices in sheets.items()
    ]
    style = [
        HeldOut("unseen style", question, Samples([_dataset(choices[0], **unseen)])) for question, choices in sheets.items()
    ]
    return (*concepts, *style)


def ask(model: VLM, recipe: Recipe, assets: QuickstartAssets, console: Console | None = None) -> Iterator[Asked]:
    """Ask the model each question about each held-out set, seeing and blind."""
    training = stage_samples(recipe.stages[0])
    collate = evaluation_collator(model, recipe.stages[0])
    metrics: dict[str, Metric] = {"exact": load_choice("metric", {"name": "tasks/exact"}).make(Metric)}
    sets = held_out(recipe, assets)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console is None) as progress:
        rows = sum(2 * min(ASKED, len(entry.samples)) for entry in sets)
        task = progress.add_task("asking about held-out pictures", total=rows)
        for entry in sets:
            found = contrast(
                model,
                entry.samples,
                training,
                collate=collate,
                metrics=metrics,
                max_new_tokens=GENERATED,
                limit=ASKED,
                progress=partial(_count, progress, task, progress.tasks[task].completed),
            )
            yield Asked(entry.name, entry.question, found.seeing, found.blind, found.frequent, found.frequent_scores["exact"])


def pairs_of(answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """What is true, and what was said."""
    return [(answer.truth, answer.said) for answer in answers]


def group_score(pairs: Sequence[tuple[str, str]]) -> Score | None:
    """The share of answers of the right group, where a plant may pass for an animal; None where kinds are not asked for."""
    if not all(truth in GROUPS for truth, _ in pairs):
        return None
    return mean_score([float(GROUPS.get(said.strip()) == GROUPS[truth]) for truth, said in pairs])


def _count(progress: Progress, task: TaskID, before: float, done: int) -> None:
    progress.update(task, completed=before + done)


def _plain(asked: Asked) -> dict[str, Any]:
    return {
        "name": asked.name,
        "question": asked.question,
        "seeing": asked.seeing.to_dict(),
        "blind": asked.blind.to_dict(),
        "frequent": asdict(asked.frequent_score),
    }


def _dataset(choice: Choice, **changes: Any) -> Dataset:
    dataset: Dataset = Choice(choice.component, choice.config.model_copy(update=changes)).make(Dataset)
    return dataset
