"""The random draws of training (dropout, drop path, what adapters start from): a function of the step, not of the past.

A run that is taken up at step k draws there what it would have drawn, whatever happened before, and no generator's state
needs to be kept. torch (all devices), numpy and Python's own generator are seeded, as a part may use any of them.
"""

import hashlib
import json
import random

import numpy as np
import torch


def seed_draws(*key: int | str) -> None:
    """Start every global generator from a number that depends on the key alone."""
    digest = hashlib.sha256(json.dumps(["draws", *key]).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    np.random.seed(int.from_bytes(digest[8:12], "big"))
    random.seed(digest[12:])
