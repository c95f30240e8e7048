"""How a tiny part of one kind is made, fed and read, so that a rule about all parts is written once."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from vlmzoo_registry.component import Component
from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.testing.tiny import tiny_config

PartType = TypeVar("PartType", bound=nn.Module)

TOLERANCE = 1e-5
"""How far two results may lie apart that differ only in the order of float32 sums, relative to the largest (at least 1)."""


class Harness(ABC, Generic[PartType]):
    """Implemented once for each kind of part."""

    def __init__(self, component: Component) -> None:
        self.component = component

    def build(self, config: ComponentConfig | None = None) -> PartType:
        """A tiny part as its factory makes it, in evaluation mode."""
        return self.make(tiny_config(self.component) if config is None else config).eval()

    def build_open(self) -> PartType:
        """A tiny part in which nothing is held back: every parameter that is 0 throughout (gates, biases) is set at random."""
        part = self.build()
        with torch.no_grad():
            for parameter in part.parameters():
                if not parameter.any():
                    parameter.uniform_(0.2, 0.8)
        return part

    @abstractmethod
    def make(self, config: ComponentConfig) -> PartType:
        """Call the factory, with neighbours to which the part fits."""

    @abstractmethod
    def declared(self, part: PartType) -> dict[str, object]:
        """What the part says about itself, comparable."""

    @abstractmethod
    def inputs(self, part: PartType, rows: int) -> tuple[Tensor, ...]:
        """Random inputs, batch first."""

    @abstractmethod
    def outputs(self, part: PartType, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the part makes of them, batch first."""

    @abstractmethod
    def wrong_calls(self, part: PartType) -> dict[str, Callable[[], object]]:
        """Calls with tensors of a wrong rank or width, each with what is wrong."""

    def unused(self, part: PartType) -> frozenset[str]:
        """The names of parameters that no output depends on, as the part declares them."""
        return frozenset()


class PassingHarness(Harness[PartType]):
    """Of a part that others train through: a connector, or a language model."""

    @abstractmethod
    def through(self, part: PartType) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Inputs, by name, that ask for a gradient, and what the part makes of them."""


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest distance between two tensors of one shape, relative to the largest value (at least 1)."""
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    distance = float((found.double() - wanted.double()).abs().max()) if wanted.numel() else 0.0
    return distance / scale


def first_difference(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> str | None:
    """Where two lists of tensors differ in shape or by more than `TOLERANCE`; None where they do not."""
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if one.shape != other.shape:
            return f"output {number} has the shape {tuple(one.shape)} instead of {tuple(other.shape)}"
        if not torch.isfinite(one).all():
            return f"output {number} is not finite"
        distance = difference(one, other)
        if not distance <= TOLERANCE:
            return f"output {number} differs by {distance:.2g} (allowed: {TOLERANCE:g})"
    return None
