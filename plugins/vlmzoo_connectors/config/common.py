"""The kinds of values that several connectors' options share."""

from typing import Annotated, Literal

from pydantic import Field

Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Factor = Annotated[int, Field(ge=2)]
Sides = tuple[Positive, Positive]
"""Rows and columns."""
