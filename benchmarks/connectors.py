"""Every connector that ships, tiny and with random weights, through the conformance kit.

`python benchmarks/connectors.py` writes docs/reference/connectors.md; a test holds the page to a fresh run.
"""

from pathlib import Path

from vlmzoo.conformance import check_component
from vlmzoo_registry import Catalogue, Component

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "connectors.md"


def connectors() -> list[Component]:
    """The connectors of this distribution."""
    found = Catalogue.discover(quiet=True).components("connector")
    return [component for component in found if component.distribution == "vlmzoo"]


def row(component: Component) -> str:
    """One line of the table, from a fresh run."""
    report = check_component(component)
    counts, spec = report.counts, component.spec
    failed = "; ".join(f"{result.name}: {result.reason}" for result in report.failures)
    left_out = [result.name.replace("_", " ") for result in report.results if result.status == "not-applicable"]
    cells = (
        f"[{component.full_name}](parts.md#connector-{component.full_name.replace('/', '-')})",
        spec.summary.rstrip("."),
        "" if spec.paper is None else f"[paper]({spec.paper})",
        spec.license or "",
        f"{counts['passed']} of {counts['run']}" + (f": {failed}" if failed else ""),
        ", ".join(left_out),
    )
    return f"| {' | '.join(' '.join(cell.replace('|', ' ').split()) for cell in cells)} |"


def page() -> str:
    """The page, from a fresh run."""
    lines = [
        "# Conformance of connectors",
        "",
        "Each row is a run of `vlmzoo check` on a tiny instance with random weights: the declared grid and number of tokens "
        "are those that come out, for every grid that is taken; tokens keep their places where they have some; every "
        "parameter has a gradient; saving and loading changes nothing; what does not fit is refused with both numbers; a whole "
        "model with it gives the same logits once it was saved and loaded.",
        "",
        "Written by `python benchmarks/connectors.py`; a test compares it with a fresh run.",
        "",
        "| connector | what it is | paper | licence | passed | does not apply |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(row, connectors()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
