"""Runs the scan in a process of its own, and finds out which plugin hung it or killed it.

The scan is then repeated without the culprit, so that one plugin that calls `os._exit` does not cost the others.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmzoo_registry.errors import PluginError, ResourceError
from vlmzoo_registry.record import PluginRecord
from vlmzoo_registry.scan_request import ScanRequest

SCANNING = "VLMZOO_SCANNING"


def patience(request: ScanRequest) -> float:
    """How long a scan may take in all: the last resort, for a plugin that switches off the scan's own watchdog."""
    return 60.0 + 50.0 * request.seconds


@dataclass(frozen=True)
class ScanResult:
    """The records of all plugins; the files whose change makes them out of date; and whether they may be kept in the cache.

    What hung or killed the scan may have done so for once (a busy disk), so it is looked at again the next time.
    """

    records: tuple[PluginRecord, ...]
    watch: tuple[str, ...]
    keep: bool


def run_scan(request: ScanRequest) -> ScanResult:
    """Scan, again and again without whoever ends the process, until one scan comes to its end.

    Raises `PluginError` where the scan itself fails, and `ResourceError` where it cannot be started or no temporary file can
    be written.
    """
    if os.environ.get(SCANNING):
        raise PluginError("the catalogue was asked for while it is being made: a manifest must only describe components")
    culprits: list[PluginRecord] = []
    while True:
        skipping = replace(request, skip=tuple(record.identity for record in culprits))
        records, watch, culprit = _run_once(skipping)
        if culprit is None:
            both = sorted([*records, *culprits], key=lambda record: (record.file is not None, record.name, record.distribution))
            return ScanResult(tuple(both), watch, keep=not culprits)
        culprits.append(culprit)


def _run_once(request: ScanRequest) -> tuple[list[PluginRecord], tuple[str, ...], PluginRecord | None]:
    try:
        with tempfile.TemporaryDirectory(prefix="vlmzoo-scan-") as name:
            return _run_in(Path(name), request)
    except OSError as error:
        raise ResourceError(f"the scan for plugins needs a temporary folder that can be written: {error}") from error


def _run_in(folder: Path, request: ScanRequest) -> tuple[list[PluginRecord], tuple[str, ...], PluginRecord | None]:
    files = [folder / name for name in ("request.json", "result.jsonl", "hang.txt")]
    files[0].write_text(request.to_json(), encoding="utf-8")
    with open(folder / "stderr.txt", "w+", encoding="utf-8", errors="replace") as stderr:
        code = _call([sys.executable, "-m", "vlmzoo_registry.scan", *map(str, files)], request, stderr.fileno())
        stderr.seek(0)
        last_words = stderr.read().strip().splitlines()[-1:]
    lines = [json.loads(line) for line in _complete_lines(files[1])]
    records = [PluginRecord.from_json(line["record"]) for line in lines if "record" in line]
    if lines and "watch" in lines[-1]:
        return records, tuple(lines[-1]["watch"]), None
    if not lines or "begin" not in lines[-1]:
        raise PluginError(f"the scan for plugins ended early ({_ending(code)}): {' '.join(last_words) or 'no message'}")
    culprit = PluginRecord.from_json(lines[-1]["begin"])
    hang = files[2].read_text(encoding="utf-8", errors="replace")
    place = re.search(r'File "(?!<frozen)([^"]+)", line (\d+)', hang)
    if hang or code is None:
        where = f" ({place[1]}:{place[2]})" if place else ""
        error = f"its manifest did not return in time{where}"
    else:
        error = f"its manifest ended the process that read it ({_ending(code)})"
    remedy = (
        f"correct {culprit.file}"
        if culprit.file is not None
        else f"pip install --upgrade {culprit.distribution}, or set VLMZOO_BLOCK={culprit.name} to do without it"
    )
    return records, (), replace(culprit, status="broken", error=error, remedy=remedy)


def _call(command: Sequence[str], request: ScanRequest, stderr: int) -> int | None:
    """The exit status of the scan, or None where it had to be killed."""
    # PYTHONPATH lets the scan find this package where this process found it; PYTHONSAFEPATH keeps `-m` from adding the
    # working directory. The path that plugins are searched on stands in the request. pydantic's own plugins stay out: to
    # find them it reads the metadata of every distribution, and falls over the first that is garbled.
    variables = os.environ | {
        SCANNING: "1",
        "PYTHONPATH": os.pathsep.join(request.path),
        "PYTHONSAFEPATH": "1",
        "PYDANTIC_DISABLE_PLUGINS": "__all__",
    }
    limit = patience(request)
    try:
        return subprocess.run(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, timeout=limit
        ).returncode
    except subprocess.TimeoutExpired:
        return None
    except OSError as error:
        raise ResourceError(f"the scan for plugins cannot start the Python `{command[0]}`: {error}") from error


def _complete_lines(file: Path) -> list[str]:
    """The lines that were written to their end."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text.split("\n")[:-1]


def _ending(code: int | None) -> str:
    if code is None:
        return "no answer"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
