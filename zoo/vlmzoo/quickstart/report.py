"""What the quickstart came to: a table for the terminal, and a page to keep, with what went wrong in it too."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlmzoo.config import Recipe
from vlmzoo.durable import replace_file
from vlmzoo.evaluation import Answer, Score, evenly
from vlmzoo.quickstart.assets import LANGUAGE, VISION, QuickstartAssets
from vlmzoo.quickstart.run import ASKED, Asked, HeldOut, QuickstartResult, group_score, held_out, pairs_of
from vlmzoo.quickstart.styles import NOTO_CREDIT, OPENMOJI, TWEMOJI
from vlmzoo.quickstart.words import on_line
from vlmzoo.training.history import read_log
from vlmzoo.training.plot import loss_plot
from vlmzoo_registry import Sample

HELD_OUT = "Held out from training: a third drawing style, and a fifth of all things."
TEMPLATE = Path(__file__).parent / "report.html.j2"
SHOWN = 23
"""Pictures of each held-out set in the gallery, evenly taken from those that were asked about; a prime, as `ASKED` is."""


@dataclass(frozen=True)
class ScoreRow:
    """A line of the table: shares of right answers, seeing, blind, and of the answer most often right in training."""

    name: str
    question: str
    taught: bool
    model: Score
    blind: Score
    frequent: Score


@dataclass(frozen=True)
class Said:
    """An answer in the gallery."""

    question: str
    truth: str
    said: str
    right: bool
    taught: bool


@dataclass(frozen=True)
class Card:
    """A picture in the gallery, as a data URI, with every question about it."""

    picture: str
    said: tuple[Said, ...]


def score_rows(result: QuickstartResult) -> list[ScoreRow]:
    """The lines of the table: every question, and for kinds also whether at least the group is right (nature or food).

    What was not taught, and cannot be right, comes last.
    """
    rows = []
    for asked in sorted(result.asked, key=lambda asked: not asked.taught):
        rows.append(ScoreRow(asked.name, asked.question, asked.taught, asked.score, asked.blind_score, asked.frequent_score))
        model, blind = (group_score(pairs_of(answers)) for answers in (asked.seeing.answers, asked.blind.answers))
        frequent = group_score(asked.frequent)
        if model is not None and blind is not None and frequent is not None:
            rows.append(ScoreRow(asked.name, "the same: nature or food?", asked.taught, model, blind, frequent))
    return rows


def show(result: QuickstartResult, console: Console, pictures: int = 7) -> None:
    """What the model said of some pictures where it can be right, how often it was, and one table of all shares.

    What was taught comes first: no answer can be right where its words were in no answer of training.
    """
    console.print(HELD_OUT, soft_wrap=True)
    for asked in leading(result):
        console.print()
        names = next(entry for entry in result.asked if entry.name == asked.name)
        console.print(Text(f"{asked.question}  ({asked.about})", "bold"), soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        table.add_column("the picture shows", overflow="ellipsis", no_wrap=True, min_width=17, max_width=28)
        if asked is not names:
            table.add_column("so it is", overflow="ellipsis", no_wrap=True, max_width=18)
        table.add_column("the model says", overflow="ellipsis", no_wrap=True, min_width=14, max_width=28)
        table.add_column("")
        for shown, answer in zip(*(_some(entry.seeing.answers, pictures) for entry in (names, asked)), strict=True):
            said = _said(answer, asked)
            truths = (answer,) if asked is names else (shown, answer)
            mark = Text("right", "green") if said.right else Text("wrong", "red")
            table.add_row(*(Text(on_line(each.truth)) for each in truths), Text(said.said), mark)
        console.print(table)
        shares = [f"{100 * score.mean:.0f} %" for score in (asked.score, asked.blind_score, asked.frequent_score)]
        line = "Right: {} of {}. Blind (other pictures): {}. Most frequent answer: {}."
        console.print(line.format(shares[0], asked.score.n, *shares[1:]), soft_wrap=True)
    console.print()
    table = Table(title="Share of right answers", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("held out")
    table.add_column("question", overflow="fold")
    for column in ("pictures", "model", "blind", "frequent"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in score_rows(result):
        shares = [f"{score.mean:.2f}" for score in (row.model, row.blind, row.frequent)]
        table.add_row(row.name, row.question, str(row.model.n), *shares)
    console.print(table)
    for asked in (asked for asked in result.asked if not asked.taught):
        line = f"{asked.name}, {asked.question}: never taught, so none can be right"
        console.print(line, style="dim", soft_wrap=True)


def leading(result: QuickstartResult) -> list[Asked]:
    """Of each held-out set the first question whose answers were taught, in the order in which the questions are trained."""
    questions = list(dict.fromkeys(asked.question for asked in result.asked))
    firsts: dict[str, Asked] = {}
    for asked in result.asked:
        if asked.taught:
            firsts.setdefault(asked.name, asked)
    return sorted(firsts.values(), key=lambda asked: questions.index(asked.question))


def write_report(result: QuickstartResult, recipe: Recipe, assets: QuickstartAssets, path: Path) -> None:
    """Write the page: one file that needs no other, light or dark as the reader's system is."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = lambda score: f"{score.mean:.2f}"
    environment.filters["error"] = lambda score: "" if score.standard_error is None else f"± {score.standard_error:.2f}"
    histories = {stage.name: read_log(result.checkpoint.parent.parent / stage.name) for stage in recipe.stages}
    last = histories[recipe.stages[-1].name]
    assert last.audit is not None  # training has ended
    assert last.end is not None
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        architecture=recipe.model.architecture.replace("_", "-"),
        seed=recipe.seed,
        rows=score_rows(result),
        held_out=HELD_OUT,
        leading=leading(result),
        abouts={asked.name: asked.about for asked in result.asked},
        galleries=galleries(result, held_out(recipe, assets)),
        # The drawing is ours, and its only words are the names of stages, which matplotlib turns into outlines.
        plot=Markup(loss_plot(histories)),  # noqa: S704
        parts=last.stage["parts"],
        audit=last.audit["rows"],
        samples=last.stage["samples"],
        steps=sum(history.stage["steps"] for history in histories.values()),
        batch_size=last.stage["batch_size"],
        tokens=sum(history.end["tokens"] for history in histories.values() if history.end is not None),
        seconds=sum(history.end["seconds"] for history in histories.values() if history.end is not None),
        asked=ASKED,
        recipe=yaml.safe_dump(recipe.dump(), sort_keys=False, allow_unicode=True, width=110, default_flow_style=None),
        versions=last.stage["versions"],
        credits=[NOTO_CREDIT, OPENMOJI.credit, TWEMOJI.credit, VISION.credit, LANGUAGE.credit],
    )
    replace_file(path, page)


def galleries(result: QuickstartResult, sets: Sequence[HeldOut]) -> dict[str, list[Card]]:
    """Pictures of each held-out set, with what the model said of them: evenly taken, so failures come as they fall.

    The sets come in the order in which they lead.
    """
    shown: dict[str, list[Card]] = {}
    for name in dict.fromkeys([*(asked.name for asked in leading(result)), *(entry.name for entry in sets)]):
        samples = next(entry.samples for entry in sets if entry.name == name)
        chosen = _some([samples[index] for index in evenly(len(samples), ASKED)], SHOWN)
        about = [asked for asked in result.asked if asked.name == name]
        answers = [[_said(answer, asked) for answer in _some(asked.seeing.answers, SHOWN)] for asked in about]
        shown[name] = [Card(_data_uri(sample), tuple(said)) for sample, *said in zip(chosen, *answers, strict=True)]
    return shown


def _some(rows: Sequence[Any], count: int) -> list[Any]:
    return [rows[index] for index in evenly(len(rows), count)]


def _said(answer: Answer, asked: Asked) -> Said:
    said = on_line(answer.said) or "(nothing)"
    return Said(answer.question, answer.truth, said, answer.scores["exact"] == 1, asked.taught)


def _data_uri(sample: Sample) -> str:
    (load,) = sample.images
    file = io.BytesIO()
    load().convert("RGB").quantize(64, method=Image.Quantize.MEDIANCUT).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
