"""`vlmzoo doctor`: how every plugin is. It reads manifests and metadata only, so it works where everything else fails."""

import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from vlmzoo.cli.console import console, print_json
from vlmzoo.tested_versions import untested_versions
from vlmzoo_registry import Catalogue, PluginRecord
from vlmzoo_registry.catalogue import strict
from vlmzoo_registry.errors import PluginError
from vlmzoo_registry.installation import duplicates, plugin_distributions, stale_entry_points
from vlmzoo_registry.requirements import missing_requirements

PACKAGES = ("vlmzoo", "torch", "transformers", "timm", "open_clip_torch", "peft", "accelerate")
STYLES = {"ok": "green", "blocked": "dim", "broken": "bold red", "conflict": "bold red"}


def doctor(as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print a JSON object.")] = False) -> None:
    """Every plugin: well; with a part whose requirement is missing; broken, in conflict or blocked, and what helps.

    Also: libraries in versions that vlmzoo is not tested with, installed metadata that is out of date, distributions installed
    twice, unknown names in VLMZOO_BLOCK.

    The exit code is 0 whatever is found; with VLMZOO_STRICT=1 it is 4 where anything is wrong.
    """
    findings = examine()
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    ill = [plugin for plugin in findings["plugins"] if plugin["status"] in ("broken", "conflict")]
    if strict() and (ill or findings["notes"] or findings["untested"]):
        untested = f" and {_count(findings['untested'])}" if findings["untested"] else ""
        raise PluginError(
            f"VLMZOO_STRICT=1, and {len(ill)} plugins are not well, with {len(findings['notes'])} notes{untested}"
        )


def examine() -> dict[str, Any]:
    """What the doctor finds, from a fresh scan."""
    catalogue = Catalogue.discover(fresh=True, quiet=True)
    found = plugin_distributions(sys.path)
    return {
        "environment": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "untested": [asdict(library) | {"remedy": library.remedy} for library in untested_versions()],
        "plugins": [_examine(plugin) for plugin in catalogue.plugins],
        "notes": [*catalogue.unknown_block_notes(), *stale_entry_points(found), *duplicates(found, sys.path)],
    }


def _examine(plugin: PluginRecord) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "status": plugin.status,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "reference": plugin.reference,
        "error": plugin.error or None,
        "remedy": plugin.remedy or None,
        "components": [f"{component.spec.kind} {component.full_name}" for component in plugin.components],
        "missing": [
            f'{component.full_name} requires {requirement} ({instead}): pip install "{requirement}"'
            for component in plugin.components
            for requirement, instead in missing_requirements(component.spec.requires)
        ],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _print(findings: dict[str, Any]) -> None:
    out = console()
    known = [f"{name} {number or 'missing'}" for name, number in findings["environment"].items()]
    out.print(Text(" · ".join(known), "dim"))
    for library in findings["untested"]:
        told = f"{library['name']} {library['installed']} is not among the versions that vlmzoo is tested with "
        out.print(Text(f"{told}({library['tested']})\nremedy: {library['remedy']}", "yellow"))
    out.print()
    table = Table.grid(padding=(0, 2, 0, 0))
    for plugin in findings["plugins"]:
        table.add_row(
            Text(plugin["status"], STYLES[plugin["status"]]),
            Text(plugin["name"], "bold"),
            _story(plugin),
        )
    out.print(table)
    out.print()
    if findings["notes"]:
        out.print(Text("Notes", "bold underline"))
        for note in findings["notes"]:
            out.print(Padding(Text(note), (0, 0, 0, 2)))
        out.print()
    out.print(_verdict(findings))


def _story(plugin: dict[str, Any]) -> Text:
    count = len(plugin["components"])
    parts = "" if plugin["status"] != "ok" else f", {count} part{'' if count == 1 else 's'}"
    story = Text(f"{plugin['distribution']} {plugin['version']}{parts}")
    if plugin["error"]:
        story.append(f"\n{plugin['error']}", "red")
    if plugin["remedy"]:
        story.append(f"\nremedy: {plugin['remedy']}")
    for missing in plugin["missing"]:
        story.append(f"\n{missing}", "yellow")
    return story


def _verdict(findings: dict[str, Any]) -> str:
    counts = {status: sum(plugin["status"] == status for plugin in findings["plugins"]) for status in STYLES}
    missing = sum(len(plugin["missing"]) for plugin in findings["plugins"])
    words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    total = len(findings["plugins"])
    untested = f", {_count(findings['untested'])}" if findings["untested"] else ""
    return f"{total} plugins: {words}; {missing} requirements missing, {len(findings['notes'])} notes{untested}."


def _count(untested: list[dict[str, str]]) -> str:
    return f"{len(untested)} {'library' if len(untested) == 1 else 'libraries'} in an untested version"
