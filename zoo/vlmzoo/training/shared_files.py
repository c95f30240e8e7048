"""Finds files that forked processes read through one descriptor: they share a position in it, and get each other's rows.

The training process reads no data while workers do, so a position that moves in its own table was moved by one of them.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from vlmzoo_registry import DataError

_OPEN = Path("/proc/self/fdinfo")  # Linux, where workers are forked


@dataclass(frozen=True)
class _Place:
    """Which file a descriptor belongs to, and where in it the next read begins."""

    device: int
    inode: int
    position: int


class SharedFiles:
    """The files that this process has open for reading when it is made; `check` says whether others read them since."""

    def __init__(self) -> None:
        self._before = _places()

    def check(self) -> None:
        """Raises `DataError` naming a file whose position has moved."""
        now = _places()
        for descriptor, place in self._before.items():
            other = now.get(descriptor, place)
            if other != place and (other.device, other.inode) == (place.device, place.inode):
                raise DataError(
                    f"`{os.readlink(f'/proc/self/fd/{descriptor}')}` was opened before the worker processes were started, and "
                    "they read it from one shared position, so each could get what another asked for: let the dataset open it "
                    "when it reads a row (in `__getitem__`), or set `workers: 0`"
                )


def _places() -> dict[int, _Place]:
    found = {}
    for entry in os.listdir(_OPEN):
        try:
            status = os.fstat(int(entry))
            if not stat.S_ISREG(status.st_mode):
                continue
            lines = dict(line.split(":", 1) for line in (_OPEN / entry).read_text().splitlines() if ":" in line)
        except OSError:  # the one that listed the others
            continue
        if int(lines["flags"], 8) & os.O_ACCMODE == os.O_RDONLY:
            found[int(entry)] = _Place(status.st_dev, status.st_ino, int(lines["pos"]))
    return found
