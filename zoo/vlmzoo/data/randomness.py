"""Random draws that depend on what they are for, never on when or where they are made.

A generator keyed by (seed, epoch, sample id, purpose) gives the same numbers in any worker, after any resume.
"""

import hashlib
import json

import torch


def keyed_generator(*key: int | str) -> torch.Generator:
    """A fresh CPU generator whose numbers are a function of the key alone."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
