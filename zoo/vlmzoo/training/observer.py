"""Somebody who looks at a model while it trains, and changes nothing of what it learns."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from vlmzoo.model.vlm import VLM

Observer = Callable[[VLM, int], None]
"""Called before a step with the model, in evaluation mode, and the number of steps that are done."""


@contextmanager
def observed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and back: the mode of every module and all random generators are as before."""
    modes = [(module, module.training) for module in model.modules()]
    drawn, numbers = random.getstate(), np.random.get_state()
    model.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        random.setstate(drawn)
        np.random.set_state(numbers)
