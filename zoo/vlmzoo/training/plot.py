"""The loss over the optimizer steps as a picture: every step as a point, a smoothed line over them."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlmzoo.durable import replace_file
from vlmzoo.training.history import History, read_log
from vlmzoo_registry import ResourceError

PLOT = "loss.svg"

# Okabe and Ito's colours, which people with colour-blindness tell apart; yellow is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MUTED, _GRID = "#57606a", "#d8dee4"


def write_loss_plot(folder: Path) -> None:
    """Draw the log of a stage into its folder, as `loss.svg`. Raises `ResourceError` where that cannot be written."""
    history = read_log(folder)
    try:
        replace_file(folder / PLOT, loss_plot({history.name: history}))
    except OSError as error:
        raise ResourceError(f"`{folder / PLOT}` could not be written ({error})") from error


def loss_plot(histories: Mapping[str, History]) -> str:
    """The losses of one or several stages as an SVG image, light and without outside references.

    Args:
        histories: by the label that the legend gives them; one alone has no legend.
    """
    # Imported here: it takes half a second, and most commands draw nothing.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context({"svg.hashsalt": "vlmzoo", "font.size": 10, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(7.2, 3.9), facecolor="white")
        axes = figure.add_axes((0.085, 0.14, 0.88, 0.82))
        points: list[float] = []
        lines: list[float] = []
        for number, (label, history) in enumerate(histories.items()):
            colour = COLOURS[number % len(COLOURS)]
            steps, losses = zip(*history.losses, strict=True) if history.losses else ((), ())
            shown = [step + 1 for step in steps]
            dots = max(1.0, min(14.0, 2000 / max(1, len(shown))))
            axes.scatter(shown, losses, s=dots, color=colour, alpha=0.28, linewidths=0, rasterized=len(shown) > 2000)
            line = smoothed(losses)
            axes.plot(shown, line, color=colour, linewidth=2, label=label, solid_capstyle="round")
            points += losses
            lines += line
        axes.set_xlabel("optimizer step", color=_MUTED)
        axes.set_ylabel("loss (nats per supervised token)", color=_MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, _top(points, lines))
        axes.margins(x=0.01)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_MUTED, length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        if len(histories) > 1:
            axes.legend(frameon=False, labelcolor=_MUTED)
        image = StringIO()
        FigureCanvasSVG(figure).print_svg(image, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = image.getvalue()
    return text[text.index("<svg") :]  # without the declaration and the document type, which do not belong into a page


def smoothed(losses: Sequence[float]) -> list[float]:
    """The losses without their noise: at each step the value of a straight line fitted to the losses around it.

    Around it is a tenth of the curve, less at both ends. A line, and not a mean: that would lag behind where the loss falls.
    """
    count = len(losses)
    half = count // 20
    steps = np.arange(count, dtype=float)
    values = np.asarray(losses, dtype=float)
    first, last = np.maximum(0, np.arange(count) - half), np.minimum(count, np.arange(count) + half + 1)

    def within(terms: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of these terms over the neighbourhood of each step."""
        sums = np.concatenate([[0.0], np.cumsum(terms)])
        return sums[last] - sums[first]

    number = np.maximum(1, last - first)
    middle, level = within(steps) / number, within(values) / number
    spread = within(steps**2) / number - middle**2
    slope = (within(steps * values) / number - middle * level) / np.where(spread > 0, spread, 1.0)
    line: list[float] = (level + slope * (steps - middle)).tolist()
    return line


def _top(losses: Sequence[float], lines: Sequence[float]) -> float:
    """Where the axis ends: above the lines and all but the highest hundredth of the points, which would flatten the others."""
    if not losses:
        return 1.0
    ordered = sorted(losses)
    return 1.05 * max(ordered[int(0.99 * (len(ordered) - 1))], *lines) or 1.0
