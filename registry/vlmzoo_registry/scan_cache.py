"""Keeps the result of a scan in the user's cache folder, for as long as nothing that it depends on has changed.

It depends on the folders of `sys.path` (an installation changes one) and on the files that the scan read. A cache that is
damaged, stale or cannot be written costs a scan, never an error.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import ValidationError

from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.scan_process import ScanResult
from vlmzoo_registry.scan_request import ScanRequest

FORMAT = 1
FILES = 32
"""How many scans are kept (one for each environment and set of local files); the longest unused go first."""


def cache_folder() -> Path:
    """Where vlmzoo keeps what it can make again: VLMZOO_CACHE, or the platform's place."""
    return Path(os.environ.get("VLMZOO_CACHE") or platformdirs.user_cache_dir("vlmzoo", appauthor=False))


def load(request: ScanRequest) -> tuple[PluginRecord, ...] | None:
    """The records of an earlier scan for the same request, or None where there is none that still holds."""
    file = _file(request)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        content = data["content"]
        if data["digest"] != _digest(content) or content["format"] != FORMAT or content["request"] != _key(request):
            return None
        if any(_state(path) != state for path, state in content["states"].items()):
            return None
        records = tuple(PluginRecord.from_json(record) for record in content["records"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return None
    with contextlib.suppress(OSError):
        os.utime(file)
    return records


def store(request: ScanRequest, result: ScanResult) -> None:
    """Keep a result; where the folder cannot be written, do without."""
    states = {path: _state(path) for path in sorted({*request.path, *result.watch})}
    records = [record.to_json() for record in result.records]
    content = {"format": FORMAT, "request": _key(request), "states": states, "records": records}
    file = _file(request)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        with open(handle, "w", encoding="utf-8") as temporary:
            json.dump({"digest": _digest(content), "content": content}, temporary)
        os.replace(name, file)
        for old in sorted(file.parent.glob("*.json"), key=lambda other: other.stat().st_mtime, reverse=True)[FILES:]:
            old.unlink()


def _file(request: ScanRequest) -> Path:
    return cache_folder() / "catalogue" / f"{hashlib.sha256(_key(request).encode()).hexdigest()[:24]}.json"


def _key(request: ScanRequest) -> str:
    return f"{sys.executable} {sys.version} {request.to_json()}"


def _state(path: str) -> list[int] | None:
    """What changes with a file or folder: its time of change and, for a file, its size; None where there is none."""
    try:
        status = os.stat(path or os.curdir)
    except (OSError, ValueError):
        return None
    return [status.st_mtime_ns, status.st_size]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
