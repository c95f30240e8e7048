"""`python -m vlmzoo_registry.scan REQUEST RESULT HANG`: reads every manifest, in a process of its own.

What a plugin does while it is imported (print, exit, hang, crash) stays in this process. The result is a file of JSON lines:
`{"begin": record}` before a manifest is read, `{"record": record}` after it, and `{"watch": files}` at the end.
"""

import faulthandler
import hashlib
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import IO, Any

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import PluginError
from vlmzoo_registry.heavy import HEAVY, LightImports
from vlmzoo_registry.installation import first_of_each, plugin_distributions
from vlmzoo_registry.local import import_reference
from vlmzoo_registry.manifest import read_manifest
from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.report import failure
from vlmzoo_registry.scan_request import ScanRequest

LOCAL_FILE_PATIENCE = 12
"""A local file holds its component's code too, so it may import torch: it gets this many times the time of a manifest."""


def scan(request: ScanRequest, hang: IO[str]) -> Iterator[dict[str, Any]]:
    """The lines of the result."""
    watched = _files_of(set(sys.modules))
    # Installed manifests first: once a local file has imported torch, no manifest could be caught importing it.
    for record in [*_installed(request, watched), *_local(request, watched)]:
        if record.identity in request.skip:
            continue
        if any(record.is_meant_by(block) for block in request.block):
            yield {"record": replace(record, status="blocked", error="", remedy="").to_json()}
            continue
        yield {"begin": record.to_json()}
        patience = request.seconds * (LOCAL_FILE_PATIENCE if record.file is not None else 1)
        # A thread of C that needs no interpreter lock: it ends this process even while a plugin sits in native code.
        faulthandler.dump_traceback_later(patience, exit=True, file=hang)
        record = _read(record, watched)
        faulthandler.cancel_dump_traceback_later()
        yield {"record": record.to_json()}
    yield {"watch": sorted(watched)}


def _installed(request: ScanRequest, watched: set[str]) -> list[PluginRecord]:
    """The entry points of the group, unread; those whose metadata is garbled are broken already."""
    records = []
    for distribution in first_of_each(plugin_distributions(request.path)):
        if distribution.folder is not None:
            watched |= {str(distribution.folder / name) for name in ("entry_points.txt", "METADATA", "PKG-INFO")}
        owner = (distribution.name, distribution.version)
        if distribution.error:
            remedy = f"reinstall it: pip install --force-reinstall {distribution.name}"
            records.append(PluginRecord(distribution.name, *owner, "?", "broken", distribution.error, remedy))
        records += [PluginRecord(name, *owner, value, "ok") for name, value in distribution.entry_points]
    return sorted(records, key=lambda record: (record.name, record.distribution))


def _local(request: ScanRequest, watched: set[str]) -> list[PluginRecord]:
    """The local files, unread; their version is a digest of what stands in them."""
    watched |= set(request.files)
    records = []
    for file in map(Path, request.files):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        records.append(PluginRecord(file.stem, file.name, f"sha256:{digest}", str(file), "ok", file=file))
    return records


def _read(record: PluginRecord, watched: set[str]) -> PluginRecord:
    """The record of one plugin, once its manifest has been read: with its components, or with what went wrong."""
    if record.status == "broken":
        return record
    before = set(sys.modules)
    light = LightImports()
    try:
        _check_entry_point(record)
        with light if record.file is None else nullcontext():
            module = (
                import_reference(record.reference, None) if record.file is None else import_reference(record.name, record.file)
            )
            specs = read_manifest(module, record.name)
        components = tuple(Component(record.name, spec, record.distribution, record.version, record.file) for spec in specs)
        read = replace(record, components=components)
        read.to_json()
    except BaseException as error:  # including SystemExit: a plugin that exits must not end the scan
        watched |= _places(record.reference) | {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
        if isinstance(error, SyntaxError) and error.filename:
            watched.add(error.filename)
        read = replace(record, status="broken", error=_reason(error), remedy=_remedy(record, error))
    finally:
        if record.file is None:
            watched |= _files_of(set(sys.modules) - before)
    heavy = light.refused or [f"`{name}`" for name in HEAVY if record.file is None and name in set(sys.modules) - before]
    if heavy:
        reason = f"heavy manifest: it imports {', '.join(heavy)}"
        remedy = 'name factory and config as "module:attribute" strings, in modules that the manifest does not import'
        watched |= _places(record.reference)
        read = replace(record, status="broken", error=reason, remedy=remedy, components=())
    return read


def _check_entry_point(record: PluginRecord) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", record.name):
        raise PluginError(f"the name `{record.name}` of the entry point has signs other than letters, digits, `_`, `.` and `-`")
    if record.file is None and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", record.reference):
        raise PluginError(f"the entry point's value `{record.reference}` is not the name of a module")


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, PluginError) else failure(error)


def _remedy(record: PluginRecord, error: BaseException) -> str:
    block = f"set VLMZOO_BLOCK={record.name} to do without it"
    if record.file is not None:
        return f"correct {record.file}"
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if record.reference == error.name or record.reference.startswith(error.name + "."):
            return f"pip install --force-reinstall {record.distribution} (files missing, or stale metadata), or {block}"
        return f"install the package that provides `{error.name.partition('.')[0]}`, or {block}"
    return f"pip install --upgrade {record.distribution}, or {block}"


def _files_of(modules: set[str]) -> set[str]:
    """The source files of those of these loaded modules that are not part of Python itself."""
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    library = str(Path(os.__file__).parent) + os.sep
    return {
        file
        for file in files
        if file is not None and (not file.startswith(library) or "site-packages" in file or "dist-packages" in file)
    }


def _places(reference: str) -> set[str]:
    """The files and folders where a module that could not be imported stands, or will stand once somebody repairs it."""
    top, *rest = reference.split(".")
    try:
        spec = PathFinder.find_spec(top)
    except Exception:
        return set()
    places: set[str] = set()
    for folder in map(Path, (spec.submodule_search_locations or []) if spec is not None else []):
        places |= {str(folder), str(folder / "__init__.py")}
        for depth in range(1, len(rest) + 1):
            inner = folder.joinpath(*rest[:depth])
            places |= {str(inner), str(inner / "__init__.py"), str(inner.with_suffix(".py"))}
    return places


def main() -> None:
    """Read the request, write the result, and leave at once, whatever threads a plugin has started."""
    request_file, result_file, hang_file = sys.argv[1:]
    request = ScanRequest.from_json(Path(request_file).read_text(encoding="utf-8"))
    sys.path[:] = request.path
    with open(result_file, "w", encoding="utf-8") as result, open(hang_file, "w", encoding="utf-8") as hang:
        for line in scan(request, hang):
            result.write(json.dumps(line) + "\n")
            result.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
