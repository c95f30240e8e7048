"""A check runs in a state of its own: the same random numbers every time, gradients on, and nothing of it left behind.

One part that turns gradients off for the process must not make the next one fail.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import config as jaxtyping_config

SEED = 20240917


@contextmanager
def isolated() -> Iterator[None]:
    """Seed the global generators, enable gradients; afterwards put back what was: generators, gradient mode, default dtype."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    torch.set_grad_enabled(True)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


@contextmanager
def as_users_run_it() -> Iterator[None]:
    """Without the shape annotations, which only tests execute: they raise before a part can, and draw random numbers."""
    disabled = jaxtyping_config.jaxtyping_disable
    jaxtyping_config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping_config.update("jaxtyping_disable", disabled)


def randomness() -> dict[str, object]:
    """The states of the global generators, in a form that can be compared."""
    kind, keys, *rest = np.random.get_state()
    return {
        "random": random.getstate(),
        "numpy.random": (kind, np.asarray(keys).tobytes(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
