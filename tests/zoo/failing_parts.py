"""A plugin whose connectors end a training: one runs out of memory, one is killed, while it trains."""

import os
import signal
from pathlib import Path

import torch
from torch import nn

from vlmzoo_registry import ComponentConfig, ComponentSpec, PerToken, hookimpl


class FailingConfig(ComponentConfig):
    """`heal`: a file that makes it work."""

    heal: Path | None = None


def run_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB")


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Failing(nn.Module):
    """A linear layer, and then the end."""

    def __init__(self, config, context, end):
        super().__init__()
        self.layer = nn.Linear(context.input.width, context.target_width)
        self.heal, self.end = config.heal, end

    def forward(self, tokens):
        if self.training and not (self.heal is not None and self.heal.exists()):
            self.end()
        return self.layer(tokens)


def hungry(config, context):
    return PerToken(Failing(config, context, run_out), context)


def killed(config, context):
    return PerToken(Failing(config, context, be_killed), context)


@hookimpl
def vlmzoo_components():
    return [
        ComponentSpec(
            kind="connector",
            name=name,
            factory=f"failing_parts:{name}",
            config="failing_parts:FailingConfig",
            summary="It ends.",
        )
        for name in ("hungry", "killed")
    ]
