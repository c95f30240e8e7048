"""The figures of a comparison against the same figures worked out another way, and the three forms they are shown in."""

import json
from html.parser import HTMLParser
from io import StringIO
from statistics import mean, stdev
from xml.etree import ElementTree

import pytest
from rich.console import Console

from vlmzoo.comparison.plots import COSTS, score_plots
from vlmzoo.comparison.report import write_report
from vlmzoo.comparison.result import CellFailure, CellResult, Comparison, aggregate, cell_result, measure
from vlmzoo.comparison.table import budget_line, markdown, rich_tables, sheet

METRICS = ("tasks/exact", "mine/close")


def cell(name: str, seed: int, shift: float) -> CellResult:
    return CellResult(
        combination=name,
        seed=seed,
        values={"connector": name},
        image_tokens=16,
        parameters=2_500_000,
        trained_parameters=1_234_567,
        steps=10,
        supervised_tokens=1000 + seed,
        images=40,
        seconds=3.0 + shift,
        seconds_per_step=0.3 + shift / 10,
        peak_memory=700 * 2**20,
        loss=2.0 + shift,
        scores={"tasks/exact": {"mean": 0.4 + shift, "standard_error": 0.1, "n": 9}, "mine/close": {"mean": 0.5, "n": 9}},
        blind_loss=2.5,
        blind_scores={"tasks/exact": {"mean": 0.1, "standard_error": 0.1, "n": 9}, "mine/close": {"mean": 0.2, "n": 9}},
        frequent_scores={"tasks/exact": {"mean": 0.25}, "mine/close": {"mean": 0.125 + seed / 8}},
    )


CELLS = [cell("linear", 0, 0.0), cell("linear", 1, 0.1), cell("linear", 2, 0.05), cell("mlp <b>&", 0, 0.3)]
BUDGET = {"supervised_tokens": 1000, "images": None, "steps": None, "seconds": None}


def comparison(failures=()) -> Comparison:
    names = ["linear", "mlp <b>&", "gone"]
    return Comparison(
        grid={
            "axes": {"connector": {name: [f"model.connector={name}"] for name in names}},
            "seeds": [0, 1, 2],
            "budget": BUDGET,
        },
        versions={"python": "3.11", "vlmzoo": "0.1.0"},
        metrics=METRICS,
        combinations=tuple(
            aggregate(name, {"connector": name}, [c for c in CELLS if c.combination == name], METRICS) for name in names
        ),
        cells=tuple(CELLS),
        failures=tuple(failures),
    )


GONE = CellFailure("gone", 0, {"connector": "gone"}, "not enough memory <script>", 6)


def test_measures_are_means_with_the_samples_standard_deviation():
    numbers = [0.25, 0.5, 1.0]
    assert measure(numbers).mean == pytest.approx(mean(numbers))
    assert measure(numbers).spread == pytest.approx(stdev(numbers))
    assert (measure([3.0]).mean, measure([3.0]).spread, measure([3.0]).n) == (3.0, None, 1)


def test_the_table_has_what_the_cells_have():
    made = sheet(comparison())
    assert made.headings == (
        "combination",
        "seeds",
        "tokens / image",
        "trained",
        "steps",
        "s / step",
        "peak memory",
        "held-out loss",
        "held-out loss, blind",
        "exact",
        "exact, blind",
        "close",
        "close, blind",
    )
    linear, mlp, gone = made.rows
    spread = f"{stdev([0.4, 0.5, 0.45]):.3f}"
    assert linear == (
        *("linear", "3", "16", "1.23M", "10", "0.305", "700 MiB", f"2.050 ± {spread}", "2.500 ± 0.000"),
        *(f"0.450 ± {spread}", "0.100 ± 0.000", "0.500 ± 0.000", "0.200 ± 0.000"),
    )
    assert mlp[9] == "0.700 ± -"
    assert gone == ("gone", "0", *("-" for _ in range(11)))


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_shows_every_figure_whole(width):
    console = Console(width=width, record=True, file=StringIO())
    for table in rich_tables(comparison(), width):
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    shown = " ".join(lines)
    for row in sheet(comparison()).rows:
        for text in row:
            assert text in shown


def test_markdown_is_a_table_of_the_same_figures():
    text = markdown(comparison([GONE]))
    lines = text.splitlines()
    made = sheet(comparison())
    assert [
        tuple(part.strip() for part in line.strip("|").split("|")) for line in lines[:5] if not line.startswith("| ---")
    ] == [
        made.headings,
        *made.rows,
    ]
    assert lines[1].count("---:") == len(made.headings) - 1
    assert "- failed: gone seed 0: not enough memory <script>" in lines
    assert "- The answer most often right in training scores exact 0.250 without a model." in lines
    assert "- The answer most often right in training scores close 0.125 to 0.375 without a model." in lines
    assert lines[-1] == "python 3.11, vlmzoo 0.1.0."


def test_the_budget_says_what_was_used():
    assert budget_line(comparison()).startswith("Budget of every cell: 1,000 supervised tokens (used: 1,000 to 1,002). ")


def test_a_cell_is_read_from_its_file():
    told = {
        "image_tokens": 4,
        "parameters": 9,
        "trained_parameters": 5,
        "steps": 3,
        "supervised_tokens": 12,
        "images": 6,
        "seconds": 1.5,
        "seconds_per_step": 0.5,
        "peak_memory": 7,
        "seeing": {"loss": 1.0, "scores": {"m": {"mean": 0.5}}},
        "blind": {"loss": 2.0, "scores": {"m": {"mean": 0.25}}},
        "frequent": {"m": {"mean": 0.125}},
    }
    found = cell_result("a+b", 3, {"x": "a", "y": "b"}, told)
    assert (found.loss, found.blind_loss, found.scores, found.blind_scores) == (
        1.0,
        2.0,
        {"m": {"mean": 0.5}},
        {"m": {"mean": 0.25}},
    )
    assert found.frequent_scores == {"m": {"mean": 0.125}}
    assert (found.image_tokens, found.steps, found.peak_memory, found.seed) == (4, 3, 7, 3)


def test_plain_data_and_back():
    data = json.loads(json.dumps(comparison([GONE]).to_dict()))
    assert data["format"] == 1
    assert Comparison.from_dict(data) == comparison([GONE])
    assert data["combinations"][0]["scores"]["tasks/exact"] == {
        "mean": pytest.approx(0.45),
        "spread": pytest.approx(stdev([0.4, 0.5, 0.45])),
        "n": 3,
    }
    assert data["failures"] == [
        {
            "combination": "gone",
            "seed": 0,
            "values": {"connector": "gone"},
            "message": "not enough memory <script>",
            "exit_code": 6,
        }
    ]
    assert data["cells"][3]["scores"]["tasks/exact"]["mean"] == 0.7


class Page(HTMLParser):
    """Tags and texts of a page, each tag closed."""

    VOID = frozenset({"meta", "br", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "action") and not value.startswith("#"):
                self.outside.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


SAID = [{"question": "What?", "truth": "<i>ox</i>", "said": {"linear": "an ox", "mlp <b>&": "</td>owl"}}]


def test_the_report_is_one_page_that_takes_nothing_for_markup(tmp_path):
    write_report(comparison([GONE]), tmp_path / "report.html", samples=SAID)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.outside == []
    assert "<script" not in text and "@import" not in text and "url(http" not in text
    for words in ("mlp <b>&", "<i>ox</i>", "</td>owl", "gone seed 0: not enough memory <script>", "1 cell has no result"):
        assert any(words in found for found in page.texts), words
    for row in sheet(comparison()).rows:
        assert all(cell in page.texts for cell in row)
    assert text.count("<svg") == 1
    assert "No plot against tokens per image: it is the same for all." in page.texts
    assert "prefers-color-scheme: dark" in text


def test_a_comparison_without_a_result_has_a_page_too(tmp_path):
    empty = Comparison(
        grid={"axes": {"connector": {"gone": []}}, "seeds": [0], "budget": BUDGET},
        versions={},
        metrics=METRICS,
        combinations=(aggregate("gone", {"connector": "gone"}, [], METRICS),),
        cells=(),
        failures=(GONE,),
    )
    write_report(empty, tmp_path / "report.html", samples=[])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "the recipe as it is" in page.texts
    assert score_plots(empty) == {}
    assert "| gone | 0 | - |" in markdown(empty)


def test_the_plots_are_whole_drawings_in_the_colour_of_the_page():
    rows = comparison()
    assert list(score_plots(rows)) == ["time"]  # all else is the same for all
    for number, row in enumerate(rows.combinations[:2]):
        row.measures["image_tokens"] = measure([16.0 * (number + 1)])
        row.measures["peak_memory"] = measure([1e9 + 1e8 * number])
    plots = score_plots(rows)
    assert list(plots) == [cost.key for cost in COSTS] == ["tokens", "time", "memory"]
    assert plots == score_plots(rows)  # the same every time
    for svg in plots.values():
        root = ElementTree.fromstring(svg)
        assert root.get("width") is None and root.get("viewBox")
        assert "currentColor" in svg and "#010203" not in svg and "#ffffff" not in svg
    on_white = score_plots(rows, ink="#1c2128", ground="#ffffff")["time"]
    assert "currentColor" not in on_white and "#1c2128" in on_white and "#ffffff" in on_white


def test_points_of_one_place_stand_beside_each_other():
    from vlmzoo.comparison.plots import _beside

    assert _beside([16, 16, 32, 16], 1.0) == [15, 16, 32, 17]
