"""The page of a comparison: one file with its table, its plots, what was said, and what failed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vlmzoo.comparison.plots import score_plots
from vlmzoo.comparison.result import Comparison
from vlmzoo.comparison.table import budget_line, failure_lines, frequent_lines, sheet
from vlmzoo.durable import replace_file

TEMPLATE = Path(__file__).parent / "report.html.j2"


def write_report(comparison: Comparison, path: Path, *, samples: Sequence[Mapping[str, Any]]) -> None:
    """Write the page. `samples` are questions with their true answer and what the first seed of each combination said."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # The drawings are ours, and hold no text but the grid's names, which matplotlib has turned into outlines.
    plots = {key: Markup(svg) for key, svg in score_plots(comparison).items()}  # noqa: S704
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        sheet=sheet(comparison),
        metric=comparison.metrics[0].rpartition("/")[2],
        plots=plots,
        headings={"tokens": "tokens per image", "time": "training time", "memory": "peak memory"},
        budget=budget_line(comparison),
        frequent=frequent_lines(comparison),
        failures=failure_lines(comparison),
        samples=samples,
        said_by=list(samples[0]["said"]) if samples else [],
        axes=comparison.grid["axes"],
        seeds=comparison.grid["seeds"],
        versions=comparison.versions,
    )
    replace_file(path, page)
