"""A draw that hangs on a name alone: the same on every machine, in every epoch, whatever the order."""

import hashlib


def draw(name: str) -> int:
    """A number from 0 to 2**64 - 1 for this name, evenly distributed over names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
