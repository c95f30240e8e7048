"""Random numbers for a check: the same every time, and none taken from the process that runs it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SEED = 20240917


@contextmanager
def fixed_randomness() -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and put them back afterwards."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)


def randomness() -> dict[str, object]:
    """The states of the global generators, in a form that can be compared."""
    kind, keys, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (kind, np.asarray(keys).tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
