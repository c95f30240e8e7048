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
from vlmzoo.quickstart.run import ASKED, HeldOut, QuickstartResult, group_score, held_out, pairs_of
from vlmzoo.quickstart.styles import NOTO_CREDIT, OPENMOJI, TWEMOJI
from vlmzoo.training.history import read_log
from vlmzoo.training.plot import loss_plot
from vlmzoo_registry import Sample

TEMPLATE = Path(__file__).parent / "report.html.j2"
SHOWN = 23
"""Pictures of each held-out set in the gallery, evenly taken from those that were asked about; a prime, as `ASKED` is."""


@dataclass(frozen=True)
class ScoreRow:
    """A line of the table: shares of right answers, seeing, blind, and of the answer most often right in training."""

    name: str
    question: str
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


@dataclass(frozen=True)
class Card:
    """A picture in the gallery, as a data URI, with every question about it."""

    picture: str
    said: tuple[Said, ...]


def score_rows(result: QuickstartResult) -> list[ScoreRow]:
    """The lines of the table: every question, and for kinds also whether at least the group is right (nature or food)."""
    rows = []
    for asked in result.asked:
        rows.append(ScoreRow(asked.name, asked.question, asked.score, asked.blind_score, asked.frequent_score))
        model, blind = (group_score(pairs_of(answers)) for answers in (asked.seeing.answers, asked.blind.answers))
        frequent = group_score(asked.frequent)
        if model is not None and blind is not None and frequent is not None:
            rows.append(ScoreRow(asked.name, "the same: nature or food?", model, blind, frequent))
    return rows


def show(result: QuickstartResult, console: Console, pictures: int = 7) -> None:
    """The table of scores, and what the model said of some pictures of each held-out set."""
    for name in dict.fromkeys(asked.name for asked in result.asked):
        asked = [entry for entry in result.asked if entry.name == name]
        table = Table(title=f"What it says: {name}", title_justify="left", box=None, pad_edge=False)
        for entry in asked:
            table.add_column("truth", overflow="ellipsis", no_wrap=True, max_width=18, style="dim")
            table.add_column(entry.question, overflow="ellipsis", no_wrap=True, max_width=27)
        for answers in zip(*(_some(entry.seeing.answers, pictures) for entry in asked), strict=True):
            table.add_row(*(text for answer in answers for text in (Text(_line(answer.truth)), _marked(answer))))
        console.print(table)
        console.print()
    table = Table(title="Share of exact answers", title_justify="left", box=None, pad_edge=False)
    table.add_column("held out")
    table.add_column("question", overflow="fold")
    for column in ("n", "model", "blind", "frequent"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in score_rows(result):
        shares = (f"{score.mean:.2f}" for score in (row.model, row.blind, row.frequent))
        table.add_row(row.name, row.question, str(row.model.n), *shares)
    console.print(table)
    console.print("blind: the same model, shown other pictures; frequent: the answer most often right in training", style="dim")


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
    """Pictures of each held-out set, with what the model said of them: evenly taken, so failures come as they fall."""
    shown: dict[str, list[Card]] = {}
    for name in dict.fromkeys(entry.name for entry in sets):
        samples = next(entry.samples for entry in sets if entry.name == name)
        chosen = _some([samples[index] for index in evenly(len(samples), ASKED)], SHOWN)
        answers = [_some(asked.seeing.answers, SHOWN) for asked in result.asked if asked.name == name]
        shown[name] = [
            Card(_data_uri(sample), tuple(_said(answer) for answer in about))
            for sample, *about in zip(chosen, *answers, strict=True)
        ]
    return shown


def _some(rows: Sequence[Any], count: int) -> list[Any]:
    return [rows[index] for index in evenly(len(rows), count)]


def _said(answer: Answer) -> Said:
    return Said(answer.question, answer.truth, _line(answer.said) or "(nothing)", answer.scores["exact"] == 1)


def _line(text: str) -> str:
    """A text on one line; what moves a terminal's cursor or has no shape is shown as a replacement character."""
    return "".join(character if character.isprintable() else "\ufffd" for character in " ".join(text.split()))


def _marked(answer: Answer) -> Text:
    said = _said(answer)
    return Text(f"{'=' if said.right else ' '} {said.said}")


def _data_uri(sample: Sample) -> str:
    (load,) = sample.images
    file = io.BytesIO()
    load().convert("RGB").quantize(64, method=Image.Quantize.MEDIANCUT).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
