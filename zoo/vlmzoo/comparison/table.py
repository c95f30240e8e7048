"""The table of a comparison, made once and shown three ways: in a terminal, in Markdown, in the report."""

from dataclasses import dataclass

from rich.table import Table

from vlmzoo.comparison.result import Comparison, Measure

LOSS = "held-out loss"


@dataclass(frozen=True)
class Sheet:
    """Headings and rows of texts; the first column is to the left, the others to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sheet(comparison: Comparison) -> Sheet:
    """One row for each combination; means and spreads over its seeds, `-` for what there is not."""
    metrics = [(name, name.rpartition("/")[2]) for name in comparison.metrics]
    headings = ["combination", "seeds", "tokens / image", "trained", "steps", "s / step", "peak memory", LOSS, f"{LOSS}, blind"]
    for _, short in metrics:
        headings += [short, f"{short}, blind"]
    rows = []
    for row in comparison.combinations:
        measures = row.measures
        cells = [
            row.combination,
            str(row.seeds),
            _whole(measures.get("image_tokens")),
            _count(measures.get("trained_parameters")),
            _whole(measures.get("steps")),
            _number(measures.get("seconds_per_step")),
            _bytes(measures.get("peak_memory")),
            _spread(measures.get("loss")),
            _spread(measures.get("blind_loss")),
        ]
        for name, _ in metrics:
            cells += [_spread(row.scores.get(name)), _spread(row.blind_scores.get(name))]
        rows.append(tuple(cells))
    return Sheet(tuple(headings), tuple(rows))


def rich_tables(comparison: Comparison, width: int) -> list[Table]:
    """For a terminal: what the combinations cost, and what they come to; one table for each measure where they are too wide."""
    made = sheet(comparison)
    first = made.headings.index(LOSS)
    pairs = [(index, index + 1) for index in range(first, len(made.headings), 2)]
    groups = [range(1, first), range(first, len(made.headings))]
    if _width(made, groups[1]) > width:
        groups = [groups[0], *(range(a, b + 1) for a, b in pairs)]
    tables = []
    for group in groups:
        table = Table(box=None, pad_edge=False)
        for index in (0, *group):
            table.add_column(made.headings[index], justify="right" if index else "left", overflow="fold", no_wrap=index > 0)
        for row in made.rows:
            table.add_row(*(row[index] for index in (0, *group)))
        tables.append(table)
    return tables


def _width(made: Sheet, group: range) -> int:
    columns = [max(len(row[index]) for row in (made.headings, *made.rows)) for index in (0, *group)]
    return sum(columns) + 2 * len(columns)


def markdown(comparison: Comparison) -> str:
    """For a README: the table, what the budget came to, the failures, and the versions."""
    made = sheet(comparison)
    rules = ["---", *("---:" for _ in made.headings[1:])]
    lines = ["| " + " | ".join(row) + " |" for row in (made.headings, rules, *made.rows)]
    lines += ["", budget_line(comparison)]
    lines += [f"- {line}" for line in frequent_lines(comparison)]
    lines += [f"- failed: {line}" for line in failure_lines(comparison)]
    lines += ["", ", ".join(f"{name} {number}" for name, number in comparison.versions.items()) + "."]
    return "\n".join(lines) + "\n"


def budget_line(comparison: Comparison) -> str:
    """What every cell was given, and what it used."""
    budget = comparison.grid["budget"]
    name = next(key for key in budget if budget[key] is not None)
    amount = f"{budget[name]:,}"
    words = {
        "supervised_tokens": f"{amount} supervised tokens",
        "images": f"{amount} images",
        "steps": f"{amount} optimizer steps",
        "seconds": f"{amount} seconds of optimizer steps",
    }[name]
    used = ""
    if comparison.cells and name != "steps":
        amounts = sorted(getattr(cell, name) for cell in comparison.cells)
        low, high = f"{amounts[0]:,.0f}", f"{amounts[-1]:,.0f}"
        used = f" (used: {low})" if low == high else f" (used: {low} to {high})"
    return (
        f"Budget of every cell: {words}{used}. Means and standard deviations over seeds; blind is shown the images of others."
    )


def frequent_lines(comparison: Comparison) -> list[str]:
    """For each metric, what who never looks would score: below that, nothing was learnt of the images."""
    lines = []
    for metric in comparison.metrics:
        means = sorted({round(cell.frequent_scores[metric]["mean"], 3) for cell in comparison.cells})
        if means:
            amount = f"{means[0]:.3f}" if len(means) == 1 else f"{means[0]:.3f} to {means[-1]:.3f}"
            lines.append(
                f"The answer most often right in training scores {metric.rpartition('/')[2]} {amount} without a model."
            )
    return lines


def failure_lines(comparison: Comparison) -> list[str]:
    """Each cell without a result, and why."""
    return [f"{failed.combination} seed {failed.seed}: {failed.message}" for failed in comparison.failures]


def _whole(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    return f"{measure.mean:,.0f}" if not measure.spread else f"{measure.mean:,.0f} ± {measure.spread:,.0f}"


def _count(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if measure.mean >= size:
            return f"{measure.mean / size:.3g}{unit}"
    return f"{measure.mean:.0f}"


def _bytes(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    return f"{measure.mean / 2**30:.2f} GiB" if measure.mean >= 2**30 else f"{measure.mean / 2**20:.0f} MiB"


def _number(measure: Measure | None) -> str:
    return "-" if measure is None else f"{measure.mean:.3g}"


def _spread(measure: Measure | None) -> str:
    if measure is None:
        return "-"
    return f"{measure.mean:.3f} ± {'-' if measure.spread is None else f'{measure.spread:.3f}'}"
