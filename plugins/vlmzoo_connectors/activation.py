"""The activations that the connectors' options name; one place, so that `gelu` means the exact one everywhere."""

from torch import nn

from vlmzoo_connectors.config import Activation


def activation_module(name: Activation) -> nn.Module:
    """The activation of this name; `gelu` is exact, `gelu_tanh` its approximation by tanh."""
    match name:
        case "gelu":
            return nn.GELU()
        case "gelu_tanh":
            return nn.GELU(approximate="tanh")
        case "silu":
            return nn.SiLU()
        case "relu":
            return nn.ReLU()
