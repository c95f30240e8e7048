"""AdamW over the parts that train, each with its own learning rate, warm-up and decay; rates follow optimizer steps."""

import math
from collections.abc import Sequence
from typing import Literal

import torch

from vlmzoo.training.trainable import PartState


def rate_factor(step: int, steps: int, warmup: float, schedule: Literal["cosine", "constant"]) -> float:
    """The share of the highest rate at optimizer step `step` (from 0) of `steps`.

    It rises linearly over the first `warmup` (a fraction of the steps) to 1, which it reaches at the last of these; then it
    stays, or falls along half a cosine to 0 after the last step.
    """
    rising = math.ceil(warmup * steps - 1e-9)  # 0.07 * 100 is a little more than 7
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def make_optimizer(states: Sequence[PartState]) -> torch.optim.AdamW:
    """One group per part and kind: vectors (biases, norms, gates) do not decay."""
    groups = []
    for state in states:
        if state.settings is None:
            continue
        for decays in (True, False):
            parameters = [p for p in state.trained.values() if (p.ndim > 1) == decays]
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "lr": state.settings.lr,
                        "weight_decay": state.settings.weight_decay if decays else 0.0,
                        "part": state.name,
                    }
                )
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)


def set_rates(
    optimizer: torch.optim.Optimizer,
    states: Sequence[PartState],
    step: int,
    steps: int,
    warmup: float,
    schedule: Literal["cosine", "constant"],
) -> dict[str, float]:
    """Set the learning rates of this step; returns them by part."""
    rates = {}
    for state in states:
        if state.settings is not None:
            share = warmup if state.settings.warmup is None else state.settings.warmup
            rates[state.name] = state.settings.lr * rate_factor(step, steps, share, schedule)
    for group in optimizer.param_groups:
        group["lr"] = rates[group["part"]]
    return rates
