"""The quickstart runs from the registry to the report; its table and its page say what was answered, failures too."""

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from vlmzoo.checkpoint import load
from vlmzoo.config import Recipe, load_recipe
from vlmzoo.evaluation import Answer, Evaluation, Score, evaluate, mean_score
from vlmzoo.quickstart import report, run, watch
from vlmzoo.quickstart.assets import PictureSheet, QuickstartAssets
from vlmzoo.quickstart.run import Asked, QuickstartResult, ask, group_score, held_out, pairs_of, placed, quickstart, watched
from vlmzoo.training.samples import make_collator
from vlmzoo.training.train import train
from vlmzoo_registry import ResourceError

COLOURS = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (30, 60, 220), "grey": (128, 128, 128)}
MARK = "<b>&red"  # what a page must not take for markup


def sheet(folder: Path, *, shade: int) -> PictureSheet:
    """Sixteen cells of four colours in one row; each colour is a kind, each cell a concept."""
    folder.mkdir()
    picture = Image.new("RGB", (16 * 8, 8), "white")
    rows = []
    for cell in range(16):
        name, colour = list(COLOURS.items())[cell % 4]
        picture.paste(tuple(max(0, value - shade) for value in colour), (8 * cell + 1, 1, 8 * cell + 7, 6 + shade // 40))
        picture.putpixel((8 * cell + 2 + cell % 4, 2 + cell // 4), (0, 0, 0))  # no two concepts look alike
        kind = {"red": "food", "green": "plant", "blue": "animal", "grey": "drink"}[name]
        rows.append({"label": f"{MARK if name == 'red' else name} {cell}", "kind": kind, "family": f"{cell}"})
    picture.save(folder / "sheet.png")
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PictureSheet(folder / "sheet.png", folder / "labels.jsonl")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Recipe, QuickstartAssets]:
    folder = tmp_path_factory.mktemp("small")
    first, second, third = (sheet(folder / name, shade=shade) for name, shade in (("a", 0), ("b", 40), ("c", 80)))
    data = [
        {
            **{"name": "tasks/sheet", "sheet": str(pictures.sheet), "labels": str(pictures.labels), "columns": 16, "cell": 8},
            **{"prompt": prompt, "text": text, "concept": "family", "split": "train", "heldout": 0.3},
        }
        for prompt, text in (("What is it?", "{label}"), ("What kind?", "{kind}"))
        for pictures in (first, second)
    ]
    section = {
        "architecture": "unified",
        "vision": "toy/vision",
        "connector": ["connectors/mlp"],
        "language": "toy/language",
        "template": "plain",
    }
    stage = {
        "name": "learn",
        "objective": "caption",
        "data": data,
        "train": {"connector": {"lr": 1e-3}, "language": {"lr": 1e-3}},
    }
    recipe = load_recipe({"model": section, "stages": [{**stage, "batch_size": 8, "steps": 6}]})
    return recipe, QuickstartAssets(folder, folder, second, third, first)


@pytest.fixture(scope="module")
def result(small, tmp_path_factory) -> QuickstartResult:
    recipe, assets = small
    trained = train(recipe, output=tmp_path_factory.mktemp("run"))
    return QuickstartResult(trained.checkpoint, tuple(ask(trained.model, recipe, assets)))


def test_what_is_asked_about_was_held_out(small) -> None:
    recipe, assets = small
    sets = {(entry.name, entry.question): entry.samples for entry in held_out(recipe, assets)}
    assert list(sets) == [
        ("unseen concepts", "What is it?"),
        ("unseen concepts", "What kind?"),
        ("unseen style", "What is it?"),
        ("unseen style", "What kind?"),
    ]
    trained_on = set()
    for choice in recipe.stages[0].data:
        dataset = choice.component.load_factory()(choice.config)
        trained_on |= {
            (sample.turns[-1].text, sample.images[0]().tobytes()) for sample in map(dataset.__getitem__, range(len(dataset)))
        }
    names = {text for text, _ in trained_on}
    pictures = {picture for _, picture in trained_on}
    for (name, question), samples in sets.items():
        rows = [samples[index] for index in range(len(samples))]
        assert not {row.images[0]().tobytes() for row in rows} & pictures
        said = {row.turns[-1].text for row in rows}
        if question == "What is it?":
            assert said.isdisjoint(names) if name == "unseen concepts" else said <= names
    count = len(sets["unseen concepts", "What is it?"])
    assert count == 2 * (16 - len(sets["unseen style", "What is it?"])) > 0


def test_scores_are_those_of_the_answers(result: QuickstartResult) -> None:
    assert [(asked.seeing.shuffled, asked.blind.shuffled) for asked in result.asked] == [(False, True)] * 4
    for asked in result.asked:
        right = [answer.said.strip() == answer.truth for answer in asked.seeing.answers]
        assert asked.score.mean == pytest.approx(sum(right) / len(right))
        assert [answer.truth for answer in asked.blind.answers] == [answer.truth for answer in asked.seeing.answers]
        assert all(answer.shown != answer.id or len(asked.seeing.answers) > 16 for answer in asked.blind.answers)


def test_a_plant_may_pass_for_an_animal_of_its_group(result: QuickstartResult) -> None:
    assert group_score(pairs_of(result.asked[0].seeing.answers)) is None  # names are no kinds
    pairs = [("animal", "plant"), ("animal", " animal\n"), ("animal", "food"), ("drink", "tableware"), ("drink", "what?")]
    score = group_score(pairs)
    assert score is not None
    assert (score.mean, score.n) == (0.6, 5)


def test_the_table_reads_well_on_eighty_columns(result: QuickstartResult, capsys: pytest.CaptureFixture[str]) -> None:
    report.show(result, Console(width=80))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    rows = report.score_rows(result)
    assert [(row.name, row.question, row.taught) for row in rows] == [
        ("unseen concepts", "What kind?", True),
        ("unseen concepts", "the same: nature or food?", True),
        ("unseen style", "What is it?", True),
        ("unseen style", "What kind?", True),
        ("unseen style", "the same: nature or food?", True),
        ("unseen concepts", "What is it?", False),
    ]
    for row in rows:
        assert re.search(rf"{row.model.n} +{row.model.mean:.2f} +{row.blind.mean:.2f} +{row.frequent.mean:.2f}", text)


def test_words_of_a_model_move_no_cursor_and_are_no_markup(
    result: QuickstartResult, capsys: pytest.CaptureFixture[str]
) -> None:
    style = result.asked[2]
    long = replace(style.seeing.answers[0], said="[red]\x1b[2J" + "w" * 90 + "\nand more", truth="t" * 90)
    changed = replace(style, seeing=replace(style.seeing, answers=(long, *style.seeing.answers[1:])))
    report.show(replace(result, asked=(*result.asked[:2], changed, result.asked[3])), Console(width=80))
    printed = capsys.readouterr().out
    assert "[red]\ufffd[2Jww" in printed
    assert "\x1b" not in printed
    assert "w" * 30 not in printed


SCREEN = """\
Held out from training: a third drawing style, and a fifth of all things.

Name?  (drawn by others)
the picture shows  the model says
cat                cat             right
bread              bread           right
Right: 100 % of 2. Blind (other pictures): 50 %. Most frequent answer: 0 %.

Kind?  (never seen)
the picture shows  so it is  the model says
ant                animal    animal          right
fig                food      animal          wrong
Right: 50 % of 2. Blind (other pictures): 50 %. Most frequent answer: 0 %.

Share of right answers
held out    question                   pictures  model  blind  frequent
new things  Kind?                             2   0.50   0.50      0.00
new things  the same: nature or food?         2   0.50   0.50      0.00
new style   Name?                             2   1.00   0.50      0.00
new style   Kind?                             2   1.00   0.50      0.00
new style   the same: nature or food?         2   1.00   1.00      0.00
new things  Name?                             2   0.00   0.50      0.00
new things, Name?: never taught, so none can be right
"""


def told(name: str, about: str, question: str, answers: list[tuple[str, str]], *, taught: bool) -> Asked:
    """Two blind answers of which one is right, and an answer most often right that never is."""
    seeing = tuple(
        Answer(f"{n}", "s", f"{n}", question, truth, said, None, None, {"exact": float(truth == said)})
        for n, (truth, said) in enumerate(answers)
    )
    score = mean_score([answer.scores["exact"] for answer in seeing])
    evaluation = Evaluation(seeing, None, None, {"exact": score}, shuffled=False)
    blind = replace(evaluation, scores={"exact": Score(0.5, 0.1, len(answers))}, shuffled=True)
    frequent = tuple((truth, "owl") for truth, _ in answers)
    return Asked(name, about, question, taught, evaluation, blind, frequent, Score(0.0, 0.1, len(answers)))


MADE_UP = (
    told("new things", "never seen", "Name?", [("ant", "bee"), ("fig", "pie")], taught=False),
    told("new things", "never seen", "Kind?", [("animal", "animal"), ("food", "animal")], taught=True),
    told("new style", "drawn by others", "Name?", [("cat", "cat"), ("bread", "bread")], taught=True),
    told("new style", "drawn by others", "Kind?", [("animal", "animal"), ("food", "food")], taught=True),
)


def test_the_screen_leads_with_what_can_be_right(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(QuickstartResult(Path("checkpoint"), MADE_UP), Console(width=100))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == SCREEN.splitlines()


def test_a_terminal_shows_the_same_words_in_colour() -> None:
    screen = Console(width=100, force_terminal=True, record=True, file=io.StringIO())
    report.show(QuickstartResult(Path("checkpoint"), MADE_UP), screen)
    assert [line.rstrip() for line in screen.export_text().splitlines()] == SCREEN.splitlines()


def test_while_it_trains_it_says_what_it_makes_of_one_picture(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, assets = small
    monkeypatch.setattr(watch, "EVERY", 4)
    samples = watched(recipe, assets)
    assert len({sample.images[0]().tobytes() for sample in samples}) == 1
    assert [sample.turns[0].text for sample in samples] == ["<image>What is it?", "<image>What kind?"]
    out = io.StringIO()
    train(recipe, output=tmp_path, observer=watch.Watch(samples, recipe.stages[0], Console(file=out), most_tokens=64))
    first, *lines = out.getvalue().splitlines()
    name, kind = (sample.turns[-1].text for sample in samples)
    assert first == f"What it says every 4 steps of a held-out picture ({name}, {kind}):"
    assert [re.match("step +[0-9]+: .", line)[0][:-2] for line in lines] == ["step   0:", "step   4:"]
    assert all(len(line) <= 80 for line in lines)
    assert all(character.isprintable() for line in lines for character in line)


class Page(HTMLParser):
    """Reads a page and holds it to its tags: each is closed where it should be."""

    EMPTY = frozenset({"meta", "img", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_needs_no_other_and_shows_failures(small, result: QuickstartResult, tmp_path: Path) -> None:
    recipe, assets = small
    report.write_report(result, recipe, assets, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    answers = [asked for asked in result.asked if asked.question == "What is it?"]
    assert len(pictures) == sum(min(report.SHOWN, len(asked.seeing.answers)) for asked in answers)
    assert all(str(attributes["src"]).startswith("data:image/png;base64,") for attributes in pictures)
    for _, attributes in page.tags:
        for key in ("src", "href", "xlink:href"):
            assert str(attributes.get(key) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)|@import|<script", text)
    words = " ".join(" ".join(page.words).split())
    assert MARK in words  # as words,
    assert MARK not in text  # not as markup
    wrong = [attributes for tag, attributes in page.tags if tag == "dd" and attributes.get("class") == "wrong"]
    right = [attributes for tag, attributes in page.tags if tag == "dd" and attributes.get("class") == "right"]
    shown = [card for cards in report.galleries(result, held_out(recipe, assets)).values() for card in cards]
    assert len(wrong) == sum(said.taught and not said.right for card in shown for said in card.said) > 0
    assert len(right) == sum(said.right for card in shown for said in card.said)
    untaught = [attributes for tag, attributes in page.tags if tag == "dd" and attributes.get("class") == "untaught"]
    assert len(untaught) == sum(not said.taught for card in shown for said in card.said) > 0
    for needed in ("CC BY-SA 4.0", "CC BY 4.0", "Apache License 2.0", "torch 2.", "seed 0", "toy/vision", "4 of 4", "steps: 6"):
        assert needed in words, needed


def test_pictures_and_answers_stay_together(small, result: QuickstartResult) -> None:
    recipe, assets = small
    sets = {(entry.name, entry.question): entry.samples for entry in held_out(recipe, assets)}
    for name, cards in report.galleries(result, held_out(recipe, assets)).items():
        samples = sets[name, "What is it?"]
        pictures = {sample.turns[-1].text: sample for sample in (samples[index] for index in range(len(samples)))}
        for card in cards:
            truth, kind = (said.truth for said in card.said)
            number = int(truth.split()[-1])
            assert kind == ("food", "plant", "animal", "drink")[number % 4]
            if name == "unseen style":
                assert card.picture == report._data_uri(pictures[truth])


def test_the_recipe_places_every_sheet(tmp_path: Path) -> None:
    sheets = [PictureSheet(tmp_path / name / "sheet.png", tmp_path / name / "labels") for name in ("open", "twe", "noto")]
    assets = QuickstartAssets(tmp_path / "vision", tmp_path / "language", *sheets)
    recipe = load_recipe(run.RECIPE, placed(assets))
    assert [choice.config.sheet.parent.name for choice in recipe.stages[0].data] == ["noto", "open", "noto", "open"]
    assert [choice.config.labels.parent.name for choice in recipe.stages[0].data] == ["noto", "open", "noto", "open"]
    assert [entry.config.text for entry in recipe.stages[0].data] == ["{label}", "{label}", "{kind}", "{kind}"]
    assert str(tmp_path / "twe") not in json.dumps(recipe.dump())  # the style that is never trained on


@pytest.mark.slow
@pytest.mark.quickstart
@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_two_steps_with_the_real_parts(parts, architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMZOO_CACHE", str(parts.vision.parents[1]))
    monkeypatch.setattr(run, "ASKED", 3)
    monkeypatch.setattr(report, "ASKED", 3)
    monkeypatch.setattr(run, "GENERATED", 2)
    overrides = ["stages.0.steps=2", "stages.0.batch_size=4", f"model.architecture={architecture}"]
    result = quickstart(tmp_path, overrides=overrides)
    record = json.loads((tmp_path / run.RESULTS).read_text())
    assert [len(entry["seeing"]["answers"]) for entry in record["asked"]] == [3, 3, 3, 3]
    assert (tmp_path / run.REPORT).stat().st_size > 20_000
    assert {path.name for path in result.checkpoint.glob("*.safetensors")} == {
        "vision.safetensors",
        "connector.safetensors",
        "language.safetensors",
    }
    if architecture == "unified":
        assert quickstart(tmp_path, overrides=overrides) == result  # takes up the finished run
    with pytest.raises(ResourceError, match=r"holds what another recipe has trained .*: choose another `--output`"):
        quickstart(tmp_path, overrides=[*overrides, "model.connector={name: connectors/linear}"])


SWAPS = {
    "encoder": "model.vision={{name: toy/vision}}",
    "connector": "model.connector={{name: connectors/linear}}",
    "language model": "model.language={{name: transformers/causal-lm, tokenizer: {tokenizer}, config: {{model_type: qwen2, "
    "hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 2, intermediate_size: 64}}}}",
    "architecture": "model.architecture=cross_attention",
}


@pytest.mark.slow
@pytest.mark.quickstart
@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_a_part_is_swapped_in_one_line(parts, swap: str, tmp_path: Path) -> None:
    """Each is one override of the shipped recipe, and what comes out trains, is saved, and answers."""
    length = ["stages.0.steps=1", "stages.0.batch_size=2"]
    before = load_recipe(run.RECIPE, [*placed(parts), *length])
    recipe = load_recipe(run.RECIPE, [*placed(parts), *length, swap.format(tokenizer=parts.language)])
    assert sum(getattr(recipe.model, name) != getattr(before.model, name) for name in ("vision", "connector", "language")) == 1
    trained = train(recipe, output=tmp_path)
    (entry, *_) = held_out(recipe, parts)
    said = evaluate(
        load(trained.checkpoint),
        entry.samples,
        collate=make_collator(trained.model, recipe.stages[0]),
        metrics={},
        max_new_tokens=2,
        limit=2,
    )
    assert len(said.answers) == 2
