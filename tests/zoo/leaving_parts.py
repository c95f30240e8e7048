"""Connectors that end the process in the middle of a training step."""

import os
import sys

from torch import nn

from vlmzoo_registry import ComponentSpec, PerToken, hookimpl


class Leaving(nn.Linear):
    """A linear layer that exits when it trains."""

    def forward(self, tokens):
        if self.training:
            sys.exit(0)
        return super().forward(tokens)


class Gone(nn.Linear):
    """The same past every handler."""

    def forward(self, tokens):
        if self.training:
            os._exit(0)
        return super().forward(tokens)


def leaving(config, context):
    return PerToken(Leaving(context.input.width, context.target_width), context)


def gone(config, context):
    return PerToken(Gone(context.input.width, context.target_width), context)


@hookimpl
def vlmzoo_components():
    return [
        ComponentSpec(kind="connector", name=name, factory=f"leaving_parts:{name}", summary="Exits.", license="MIT")
        for name in ("leaving", "gone")
    ]
