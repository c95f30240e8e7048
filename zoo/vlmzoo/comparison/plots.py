"""The plots of a comparison as SVG texts: the score against what it costs, a labelled point for each combination.

Text and axes take the colour of the page they stand in, so that one drawing reads on light and on dark.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from vlmzoo.comparison.result import Aggregate, Comparison

INK = "#010203"
"""Stands for the page's own colour while matplotlib draws."""

COLOURS = ("#2f7ed8", "#d9730d", "#1a9c6b", "#b04ac2", "#c23b4b", "#7a8b1e", "#0f9db5", "#8a6d3b")
"""Of middle lightness, told apart by the colour-blind too where the labels would not do."""


@dataclass(frozen=True)
class Cost:
    """What a plot has on its horizontal axis."""

    key: str
    label: str
    value: Callable[[Aggregate], float]


COSTS = (
    Cost("tokens", "image tokens per image", lambda row: row.measures["image_tokens"].mean),
    Cost("time", "training time (s)", lambda row: row.measures["seconds"].mean),
    Cost("memory", "peak memory (MiB)", lambda row: row.measures["peak_memory"].mean / 2**20),
)


def score_plots(comparison: Comparison, *, ink: str = "currentColor", ground: str = "none") -> dict[str, str]:
    """For each cost the SVG of the first metric against it; none for a cost that is the same for all.

    Args:
        comparison: what is drawn.
        ink: the colour of text and axes; the page's own is known to a drawing that stands in the page, not to an image file.
        ground: the colour behind.
    """
    rows = [row for row in comparison.combinations if row.seeds]
    differing = [cost for cost in COSTS if len({cost.value(row) for row in rows}) > 1]
    return {cost.key: score_plot(rows, comparison.metrics[0], cost, ink, ground) for cost in differing}


def score_plot(rows: list[Aggregate], metric: str, cost: Cost, ink: str, ground: str) -> str:
    """Filled points for the score, hollow ones for the blind score; bars are the standard deviation over seeds."""
    with matplotlib.rc_context({"svg.hashsalt": f"vlmzoo {cost.key}", "font.size": 11}):
        figure = Figure(figsize=(5.6, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.set_facecolor("none")
        values = [cost.value(row) for row in rows]
        room = max(values) - min(values)
        axes.set_xlim(min(values) - 0.18 * room, max(values) + 0.42 * room)
        top = 0.0
        places = _beside(values, 0.035 * room)
        for index, row in enumerate(rows):
            x, colour = places[index], COLOURS[index % len(COLOURS)]
            score, blind = row.scores[metric], row.blind_scores[metric]
            axes.errorbar(x, blind.mean, yerr=blind.spread, fmt="o", mfc="none", mec=colour, ecolor=colour, ms=6, capsize=0)
            axes.errorbar(x, score.mean, yerr=score.spread, fmt="o", color=colour, ms=8, capsize=3)
            top = max(top, score.mean + (score.spread or 0), blind.mean + (blind.spread or 0))
        axes.set_ylim(0, max(top * 1.12, 0.05))
        _label(axes, rows, metric, places)
        axes.set_xlabel(cost.label)
        axes.set_ylabel(metric.rpartition("/")[2])
        exact = sorted(set(values)) if cost.key == "tokens" and len(set(values)) <= 6 else None
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5) if exact is None else FixedLocator(exact))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.5g}"))
        _dress(axes)
        return _svg(figure, ink, ground)


def _beside(values: list[float], step: float) -> list[float]:
    """The same values, those that are equal a step apart and around their own, so that none hides another."""
    places = []
    for index, value in enumerate(values):
        before, equal = values[:index].count(value), values.count(value)
        places.append(value + (before - (equal - 1) / 2) * step)
    return places


def _label(axes: Axes, rows: list[Aggregate], metric: str, places: list[float]) -> None:
    """The name of each combination to the right of its point, moved up where it would stand on another name."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    line = 0.065 * (high - low)
    taken: list[tuple[float, float, float]] = []
    colours = [COLOURS[index % len(COLOURS)] for index in range(len(rows))]
    ascending = sorted(zip(places, rows, colours, strict=True), key=lambda named: named[1].scores[metric].mean)
    for x, row, colour in ascending:
        # Right of all points that stand close together, or their bars would run through the name.
        begin = max(place for place in places if 0 <= place - x < 0.06 * (right - left)) + 0.03 * (right - left)
        end = begin + 0.021 * len(row.combination) * (right - left)
        height = row.scores[metric].mean
        while any(abs(height - other) < line and begin < o_end and o_begin < end for o_begin, other, o_end in taken):
            height += 0.2 * line
        taken.append((begin, height, end))
        axes.text(begin, height, row.combination, va="center", fontsize=9.5, fontweight="bold", color=colour)


def _dress(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)


def _svg(figure: Figure, ink: str, ground: str) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", facecolor=ground, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, ink)
    # The page sets the size.
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1)
