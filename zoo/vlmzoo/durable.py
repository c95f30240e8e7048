"""A file or a folder that is written whole or not at all: under a temporary name, flushed to disk, then renamed.

A crash, a full disk or a signal at any moment leaves what was there before or what is new, never a mixture.
"""

import ctypes
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)


def replace_file(target: Path, text: str) -> None:
    """Write a text file; where that fails (`OSError`), the earlier one stays as it was."""
    staged = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        staged.write_text(text, encoding="utf-8")
        _flush_entry(staged)
        os.replace(staged, target)
    finally:
        staged.unlink(missing_ok=True)


def replace_json(target: Path, data: Any) -> None:
    """Write plain data as a file of JSON, as `replace_file` does."""
    replace_file(target, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """An empty folder to write into; when the block ends well it takes the place of `target`, and what was there goes.

    Where the block raises, `target` stays as it was and nothing is left behind. A process that is killed may leave a folder
    `.<name>.<digits>.partial` beside `target`; the next call removes it.

    On Linux the two folders are exchanged in one step. Where the system or the file system cannot do that, the old folder is
    called `.<name>.vlmzoo-old` before the new one takes its name: a crash between these two renames leaves no `target`, and
    the next call gives the old one its name back.
    """
    tidy(target)
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    staging.mkdir()
    try:
        with _held(staging):
            yield staging
            _flush(staging)
            _publish(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish(staging: Path, target: Path) -> None:
    if not target.exists():
        os.replace(staging, target)
    elif not _exchange(staging, target):
        os.replace(target, _aside(target))
        try:
            os.replace(staging, target)
        except OSError:
            os.replace(_aside(target), target)
            raise
    _flush_entry(target.parent)
    shutil.rmtree(_aside(target), ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where that is not possible here."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return renameat2 is not None and renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.vlmzoo-old")


def _flush(folder: Path) -> None:
    """Every file and folder inside, then the folder that names them."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            _flush(entry)
        else:
            _flush_entry(entry)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def tidy(target: Path) -> None:
    """Undo what killed processes left halfway; whoever looks for `target` calls this first, as it may have lost its name."""
    if _aside(target).exists() and not target.exists():
        os.replace(_aside(target), target)
    shutil.rmtree(_aside(target), ignore_errors=True)
    for folder in target.parent.glob(f".{escape(target.name)}.{8 * '?'}.partial"):
        # Held by a process that is at work: left alone, as it is where the file system has no locks to tell.
        with suppress(OSError), _opened(folder) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Say that a process is at work in this folder; the system takes it back when the process ends, however it does."""
    with _opened(folder) as descriptor:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
