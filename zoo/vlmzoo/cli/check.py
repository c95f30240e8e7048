"""`vlmzoo check`: the conformance kit on one component."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo_registry import PluginError, default_catalogue

STYLES = {"passed": "green", "failed": "bold red", "expected-fail": "yellow", "not-applicable": "dim"}


def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A part: `plugin/part`, or `part` where one plugin has it.")],
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Its kind, where parts of two kinds share the name.")] = None,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False,
) -> None:
    """Prove a part: every rule for its kind, on the small instance that its description names.

    No network, no GPU. The exit code is 4 where a check fails; each failure says what is wrong and what to do.
    """
    component = default_catalogue().get(kind, name)

    from vlmzoo.conformance import check_component

    report = check_component(component)
    if as_json:
        print_json(report.to_dict())
    else:
        out = console()
        table = Table.grid(padding=(0, 2, 0, 0))
        for result in report.results:
            story = Text.assemble((result.name, "bold"))
            if result.reason:
                story.append(f"\n{result.reason}", STYLES[result.status])
            if result.status == "failed":
                story.append(f"\nthe rule: {result.rule}")
                story.append(f"\nwhat to do: {result.remedy}")
            table.add_row(Text(result.status, STYLES[result.status]), story)
        out.print(table)
        out.print()
        out.print(Text(report.summary()))
    if report.failures:
        failed = ", ".join(f"`{result.name}`" for result in report.failures)
        raise PluginError(f"{component} fails {len(report.failures)} of {report.counts['run']} checks: {failed}")
