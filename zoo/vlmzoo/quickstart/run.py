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
from rich.progress import Progress, TaskID

from vlmzoo.config import Choice, Recipe, load_choice, load_recipe
from vlmzoo.durable import replace_json
from vlmzoo.evaluation import Answer, Evaluation, Score, contrast, mean_score
from vlmzoo.feature_cache.in_memory import EncodingReader
from vlmzoo.model.vlm import VLM
from vlmzoo.passing_bar import passing_bar
from vlmzoo.quickstart.assets import QuickstartAssets, prepare
from vlmzoo.quickstart.cpu_dtype import fastest_dtype, kept_dtype
from vlmzoo.quickstart.families import GROUPS
from vlmzoo.quickstart.watch import Watch
from vlmzoo.training.samples import Samples, evaluation_collator, stage_samples
from vlmzoo.training.train import train
from vlmzoo_registry import Dataset, Metric, Sample

RECIPE = Path(__file__).parent / "recipe.yaml"
RESULTS, REPORT = "results.json", "report.html"

ASKED = 241
"""Pictures of each held-out set that are asked about, evenly taken from all: enough for a standard error of .03.

A prime, so that of two sheets with the same concepts in the same order not the same ones are taken.
"""

BATCH = 64
"""Questions at a time: more would wait longer for the longest answer, fewer read the weights more often."""

GENERATED = 16
"""Tokens at most; the longest answers in the data have fewer."""

WATCHED = 133
"""Which picture of the unseen style is asked about during training: a mushroom."""

CONCEPTS = "things that it never saw in any style"
STYLE = "things that it trained on, drawn in a style that it never saw"


@dataclass(frozen=True)
class HeldOut:
    """Pictures that were not trained on, and one question about them; `about` says in words what they are."""

    name: str
    about: str
    question: str
    samples: Samples


@dataclass(frozen=True)
class Asked:
    """What came of a question about held-out pictures: seeing, blind (shown other pictures), and without looking at all.

    `frequent` are pairs of what is true and the answer that was most often right in training, `frequent_score` is their share
    of exact answers. `taught`: whether any of the true answers was ever one in training, so that it can be right.
    """

    name: str
    about: str
    question: str
    taught: bool
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
    dtype = kept_dtype(output) or fastest_dtype()
    recipe = load_recipe(RECIPE, [*placed(assets), f"model.language.dtype={dtype}", *overrides])
    watch = None if console is None else Watch(watched(recipe, assets), recipe.stages[0], console, most_tokens=GENERATED)
    trained = train(recipe, output=output, console=console, observer=watch)
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
        HeldOut("unseen concepts", CONCEPTS, question, Samples([_dataset(choice, split="heldout") for choice in choices]))
        for question, choices in sheets.items()
    ]
    style = [
        HeldOut("unseen style", STYLE, question, Samples([_dataset(choices[0], **unseen)]))
        for question, choices in sheets.items()
    ]
    return (*concepts, *style)


def watched(recipe: Recipe, assets: QuickstartAssets) -> list[Sample]:
    """Every question about the one picture in the unseen style that is asked about while the model trains."""
    styled = [entry.samples for entry in held_out(recipe, assets) if entry.about == STYLE]
    return [samples[WATCHED % len(samples)] for samples in styled]


def ask(model: VLM, recipe: Recipe, assets: QuickstartAssets, console: Console | None = None) -> Iterator[Asked]:
    """Ask the model each question about each held-out set, seeing and blind."""
    training = stage_samples(recipe.stages[0])
    # Sets share pictures: each is encoded once for all of them.
    collate = evaluation_collator(model, recipe.stages[0]).reading(EncodingReader(model, model.processor.images))
    metrics: dict[str, Metric] = {"exact": load_choice("metric", {"name": "tasks/exact"}).make(Metric)}
    sets = held_out(recipe, assets)
    learnt = {(sample.turns[-2].text, sample.turns[-1].text) for sample in map(training.__getitem__, range(len(training)))}
    before = 0
    questions = sum(2 * min(ASKED, len(entry.samples)) for entry in sets)
    with passing_bar(console, "questions") as bar:
        task = bar.add_task("asking about held-out pictures", total=questions)
        for entry in sets:
            found = contrast(
                model,
                entry.samples,
                training,
                collate=collate,
                metrics=metrics,
                batch_size=BATCH,
                max_new_tokens=GENERATED,
                limit=ASKED,
                likelihood=False,
                progress=partial(_asked, bar, task, before),
            )
            before += 2 * len(found.seeing.answers)
            asked = (entry.samples[index].turns for index in range(len(entry.samples)))
            taught = any((turns[-2].text, turns[-1].text) in learnt for turns in asked)
            scores = found.frequent_scores["exact"]
            yield Asked(entry.name, entry.about, entry.question, taught, found.seeing, found.blind, found.frequent, scores)


def pairs_of(answers: Sequence[Answer]) -> list[tuple[str, str]]:
    """What is true, and what was said."""
    return [(answer.truth, answer.said) for answer in answers]


def group_score(pairs: Sequence[tuple[str, str]]) -> Score | None:
    """The share of answers of the right group, where a plant may pass for an animal; None where kinds are not asked for."""
    if not all(truth in GROUPS for truth, _ in pairs):
        return None
    return mean_score([float(GROUPS.get(said.strip()) == GROUPS[truth]) for truth, said in pairs])


def _asked(bar: Progress, task: TaskID, before: int, done: int) -> None:
    bar.update(task, completed=before + done)


def _plain(asked: Asked) -> dict[str, Any]:
    return {
        "name": asked.name,
        "question": asked.question,
        "taught": asked.taught,
        "seeing": asked.seeing.to_dict(),
        "blind": asked.blind.to_dict(),
        "frequent": asdict(asked.frequent_score),
    }


def _dataset(choice: Choice, **changes: Any) -> Dataset:
    dataset: Dataset = Choice(choice.component, choice.config.model_copy(update=changes)).make(Dataset)
    return dataset
