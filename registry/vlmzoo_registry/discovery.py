"""Finding plugins: entry points are read one by one, each failure is kept as a record and stops nothing else."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from os import PathLike
from pathlib import Path

from vlmzoo_registry.component import Component
from vlmzoo_registry.hooks import ENTRY_POINT_GROUP
from vlmzoo_registry.local import import_reference
from vlmzoo_registry.manifest import read_manifest
from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.report import failure


def discover(extra: Sequence[str | PathLike[str]] = ()) -> tuple[PluginRecord, ...]:
    """One record for each entry point of the group `vlmzoo.plugins` and for each local file."""
    found = [
        (point.name, point.dist.name if point.dist else "?", point.dist.version if point.dist else "?", point.value, None)
        for point in entry_points(group=ENTRY_POINT_GROUP)
    ]
    local = [(Path(file).stem, Path(file).name, "local", Path(file).stem, Path(file).resolve()) for file in extra]
    return tuple(_read(*plugin) for plugin in sorted(found, key=lambda plugin: plugin[:2]) + local)


def _read(name: str, distribution: str, version: str, reference: str, file: Path | None) -> PluginRecord:
    try:
        module = import_reference(reference, file) if file else import_module(reference)
        specs = read_manifest(module, name)
    except (Exception, SystemExit) as error:
        remedy = f"pip install --upgrade {distribution}, or set VLMZOO_BLOCK={name}"
        return PluginRecord(name, distribution, version, reference, "broken", failure(error), remedy, file=file)
    components = tuple(Component(name, spec, distribution, version, file) for spec in specs)
    return PluginRecord(name, distribution, version, reference, "ok", components=components, file=file)
