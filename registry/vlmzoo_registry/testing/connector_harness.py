"""How a tiny connector is made and fed: between neighbours with which it agrees, over grids of several forms."""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.connector import Connector, ConnectorContext, InstructedConnector
from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.features import FeatureShape
from vlmzoo_registry.testing.check import CheckFailure
from vlmzoo_registry.testing.harness import PassingHarness
from vlmzoo_registry.testing.tiny import make, tiny_config
from vlmzoo_registry.vision import VisionFeatures

WIDTH, LANGUAGE_WIDTH, LANGUAGE_DEPTH = 12, 20, 3
INSTRUCTION = "What is in this picture?"

SHAPES = (
    FeatureShape(WIDTH, 16, (4, 4)),
    FeatureShape(WIDTH, 24, (4, 6)),
    FeatureShape(WIDTH, 16, (2, 8)),
    FeatureShape(WIDTH, 17, (4, 4), 1),
    FeatureShape(WIDTH, 15, (3, 5)),
    FeatureShape(WIDTH, 20, (3, 5), 5),
    FeatureShape(WIDTH, 9, (3, 3)),
    FeatureShape(WIDTH, 1, (1, 1)),
    FeatureShape(WIDTH, 7, None),
)
"""Features with and without prefix tokens, on grids that are square, flat, odd, a single place, and on none."""


def contexts() -> Iterator[ConnectorContext]:
    """Every shape, at the end of a chain (the width is given) and within one (the connector may choose)."""
    for shape in SHAPES:
        for output_width in (LANGUAGE_WIDTH, None):
            yield ConnectorContext(shape, output_width, LANGUAGE_WIDTH, LANGUAGE_DEPTH)


def features_of(shape: FeatureShape, rows: int) -> VisionFeatures:
    """Random features of this shape."""
    return VisionFeatures(torch.randn(rows, shape.count, shape.width), shape.grid, shape.prefix)


def connected(connector: Connector, features: VisionFeatures) -> VisionFeatures:
    """What a connector makes of features; one that reads the instruction is given the same one for every row."""
    if not isinstance(connector, InstructedConnector):
        return connector(features)
    ids = torch.tensor(connector.tokenizer(INSTRUCTION)["input_ids"]).expand(len(features.tokens), -1)
    return connector(features, ids, torch.ones_like(ids))


class ConnectorHarness(PassingHarness[Connector]):
    """Connectors that map tokens to tokens."""

    def make_in(self, config: ComponentConfig, context: ConnectorContext) -> Connector:
        """Call the factory."""
        return make(self.component, Connector, config, context)  # type: ignore[type-abstract]

    @cached_property
    def context(self) -> ConnectorContext:
        """The first neighbours with which the connector agrees. Raises `CheckFailure` where there are none."""
        refusals = []
        with torch.device("cpu"):
            for context in contexts():
                try:
                    self.make_in(tiny_config(self.component), context).output_shape(context.input)
                    return context
                except AssemblyError as error:
                    refusals.append(f"{context.input}, `output_width` {context.output_width}: {error.message}")
        raise CheckFailure("it agrees with no neighbours at all", refusals)

    def make(self, config: ComponentConfig) -> Connector:
        """Call the factory with neighbours it agrees with."""
        return self.make_in(config, self.context)

    def declared(self, part: Connector) -> dict[str, object]:
        """The shape that comes out."""
        return {"output_shape": part.output_shape(self.context.input)}

    def inputs(self, part: Connector, rows: int) -> tuple[Tensor, ...]:
        """Tokens [B, N, D]."""
        return (features_of(self.context.input, rows).tokens,)

    def outputs(self, part: Connector, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Tokens [B, M, d]."""
        shape = self.context.input
        return (connected(part, VisionFeatures(inputs[0], shape.grid, shape.prefix)).tokens,)

    def through(self, part: Connector) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """The image tokens."""
        (tokens,) = self.inputs(part, 2)
        return {"tokens": tokens.requires_grad_()}, self.outputs(part, (tokens,))

    def wrong_calls(self, part: Connector) -> dict[str, Callable[[], object]]:
        """Tokens that are too wide, and tokens without a batch."""
        shape = self.context.input

        def call(*size: int) -> Callable[[], object]:
            return lambda: connected(part, VisionFeatures(torch.zeros(size), shape.grid, shape.prefix))

        return {
            f"tokens of width {WIDTH + 1} instead of {WIDTH}": call(2, shape.count, WIDTH + 1),
            f"tokens of rank 2 ({shape.count}, {WIDTH})": call(shape.count, WIDTH),
        }
