"""The loss over the optimizer steps as a picture: every step as a point, a smoothed line over them."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path

from vlmzoo.training.history import History, read_log

PLOT = "loss.svg"

# Okabe and Ito's colours, which people with colour-blindness tell apart; yellow is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MUTED, _GRID = "#57606a", "#d8dee4"


def write_loss_plot(folder: Path) -> None:
    """Draw the log of a stage into its folder, as `loss.svg`."""
    history = read_log(folder)
    (folder / PLOT).write_text(loss_plot({history.name: history}), encoding="utf-8")


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
        axes = figure.add_axes((0.09, 0.14, 0.89, 0.82))
        drawn: list[float] = []
        for number, (label, history) in enumerate(histories.items()):
            colour = COLOURS[number % len(COLOURS)]
            steps, losses = zip(*history.losses, strict=True) if history.losses else ((), ())
            shown = [step + 1 for step in steps]
            dots = max(1.0, min(14.0, 2000 / max(1, len(shown))))
            axes.scatter(shown, losses, s=dots, color=colour, alpha=0.28, linewidths=0, rasterized=len(shown) > 2000)
            axes.plot(shown, smoothed(losses), color=colour, linewidth=2, label=label, solid_capstyle="round")
            drawn += losses
        axes.set_xlabel("optimizer step", color=_MUTED)
        axes.set_ylabel("loss (nats per supervised token)", color=_MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(0, _top(drawn))
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
        FigureCanvasSVG(figure).print_svg(image, metadata={"Date": None, "Creator": None})
    text = image.getvalue()
    return text[text.index("<svg") :]  # without the declaration and the document type, which do not belong into a page


def smoothed(losses: Sequence[float]) -> list[float]:
    """A running mean that weighs older losses less and less; it reaches back about a twentieth of the curve.

    Each mean is over what has been seen so far, so that the line begins in the points and not at 0.
    """
    keep = 1 - 1 / max(1.0, len(losses) / 20)
    total = weight = 0.0
    line = []
    for loss in losses:
        total, weight = keep * total + loss, keep * weight + 1
        line.append(total / weight)
    return line


def _top(losses: Sequence[float]) -> float:
    """Where the axis ends: above all but the highest hundredth, so that the first steps do not flatten the others."""
    if not losses:
        return 1.0
    ordered = sorted(losses)
    return 1.08 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] or 1.0
