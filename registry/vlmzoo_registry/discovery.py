"""From what is installed to one record for each plugin: ask the cache, else scan; then find plugins that claim one name."""

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike

from vlmzoo_registry import scan_cache
from vlmzoo_registry.local import local_files
from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.scan_process import run_scan
from vlmzoo_registry.scan_request import ScanRequest


def blocked_names() -> tuple[str, ...]:
    """The items of VLMZOO_BLOCK: names of plugins, or `distribution:name`, separated by commas."""
    items = (item.strip() for item in os.environ.get("VLMZOO_BLOCK", "").split(","))
    return tuple(sorted({item for item in items if item}))


def discover(extra: Sequence[str | PathLike[str]], fresh: bool, seconds: float) -> tuple[PluginRecord, ...]:
    """One record for each entry point of the group `vlmzoo.plugins` on `sys.path` and for each local file.

    Local files are those in `extra` and in the environment variable VLMZOO_PLUGINS.
    """
    named = [item for item in os.environ.get("VLMZOO_PLUGINS", "").split(os.pathsep) if item]
    files = tuple(str(file) for file in local_files([*named, *extra]))
    request = ScanRequest(path=tuple(sys.path), files=files, block=blocked_names(), seconds=seconds)
    records = None if fresh else scan_cache.load(request)
    if records is None:
        result = run_scan(request)
        records = result.records
        if result.keep:
            scan_cache.store(request, result)
    return refuse_conflicts(records)


def refuse_conflicts(records: Sequence[PluginRecord]) -> tuple[PluginRecord, ...]:
    """The records, where plugins that provide one component under one full name are in conflict: all of them, whole.

    There are no priorities: which one is meant is for the user to say.
    """
    providers: dict[tuple[str, str], list[PluginRecord]] = defaultdict(list)
    for record in records:
        if record.status == "ok":
            for component in record.components:
                providers[component.spec.kind, component.full_name].append(record)
    errors: dict[str, list[str]] = defaultdict(list)
    rivals: dict[str, set[str]] = defaultdict(set)
    for (kind, name), claimants in providers.items():
        if len(claimants) > 1:
            owners = " and ".join(f"{record.distribution} {record.version}" for record in claimants)
            for record in claimants:
                errors[record.identity].append(f"{kind} `{name}` is provided by {owners}")
                rivals[record.identity] |= {other.identity for other in claimants}
    return tuple(
        replace(record, status="conflict", error="; ".join(errors[record.identity]), remedy=_choose(rivals[record.identity]))
        if record.identity in errors
        else record
        for record in records
    )


def _choose(rivals: set[str]) -> str:
    blocks = " or ".join(f"VLMZOO_BLOCK={identity}" for identity in sorted(rivals))
    return f"uninstall one, or set {blocks} to do without one"
