"""How a tiny connector with blocks in the decoder is made and fed: hidden states, image tokens, and who sees which."""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.connector import ConnectorContext, DecoderBlock, LayersConnector
from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.features import FeatureShape
from vlmzoo_registry.testing.check import CheckFailure, require
from vlmzoo_registry.testing.harness import PassingHarness
from vlmzoo_registry.testing.tiny import make, tiny_config

TOKENS = FeatureShape(12, 6, None)
LANGUAGE_WIDTH, TEXT = 16, 5
DEPTHS = (3, 1, 2, 5, 8, 12, 40)


class LayersHarness(PassingHarness[LayersConnector]):
    """Connectors of the capability `layers`."""

    def make_in(self, config: ComponentConfig, depth: int) -> LayersConnector:
        """Call the factory for a decoder of this many layers."""
        context = ConnectorContext(TOKENS, None, LANGUAGE_WIDTH, depth)
        return make(self.component, LayersConnector, config, context)  # type: ignore[type-abstract]

    @cached_property
    def depth(self) -> int:
        """The first depth of a decoder to which the connector fits. Raises `CheckFailure` where there is none."""
        refusals = []
        with torch.device("cpu"):
            for depth in DEPTHS:
                try:
                    self.make_in(tiny_config(self.component), depth)
                    return depth
                except AssemblyError as error:
                    refusals.append(f"{depth} layers: {error}")
        raise CheckFailure("it fits to no decoder at all", refusals)

    def make(self, config: ComponentConfig) -> LayersConnector:
        """Call the factory for a decoder that it fits to."""
        return self.make_in(config, self.depth)

    def declared(self, part: LayersConnector) -> dict[str, object]:
        """Where the blocks sit, what they see, and how many gates there are."""
        return {
            "placement": part.placement,
            "place": part.place,
            "attend": part.attend,
            "masked_rows": part.masked_rows,
            "gates": len(part.gates),
            "blocks": len(part.blocks),
        }

    def inputs(self, part: LayersConnector, rows: int) -> tuple[Tensor, ...]:
        """Hidden states [B, S, d], image tokens [B, M, D], and which text position sees which [B, S, M].

        The first text position of every row sees nothing, the last token is seen by nobody, all else is seen.
        """
        visible = torch.ones(rows, TEXT, TOKENS.count, dtype=torch.bool)
        visible[:, 0] = False
        visible[:, :, -1] = False
        return torch.randn(rows, TEXT, LANGUAGE_WIDTH), torch.randn(rows, TOKENS.count, TOKENS.width), visible

    def outputs(self, part: LayersConnector, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The hidden states after each block, one after the other."""
        hidden, tokens, visible = inputs
        outputs = []
        for block in blocks_of(part):
            keys, values = block.keys_values(tokens)
            hidden = block(hidden, keys, values, visible)
            outputs.append(hidden)
        return tuple(outputs)

    def through(self, part: LayersConnector) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """The hidden states and the image tokens."""
        hidden, tokens, visible = self.inputs(part, 2)
        named = {"hidden states": hidden.requires_grad_(), "image tokens": tokens.requires_grad_()}
        return named, self.outputs(part, (hidden, tokens, visible))

    def wrong_calls(self, part: LayersConnector) -> dict[str, Callable[[], object]]:
        """Image tokens and hidden states that are too wide, or without a batch."""
        block = blocks_of(part)[0]
        hidden, tokens, visible = self.inputs(part, 2)
        keys, values = block.keys_values(tokens)
        wide_tokens = torch.zeros(2, TOKENS.count, TOKENS.width + 1)
        wide_hidden = torch.zeros(2, TEXT, LANGUAGE_WIDTH + 1)
        return {
            f"image tokens of width {TOKENS.width + 1} instead of {TOKENS.width}": lambda: block.keys_values(wide_tokens),
            f"image tokens of rank 2 ({TOKENS.count}, {TOKENS.width})": lambda: block.keys_values(tokens[0]),
            f"hidden states of width {LANGUAGE_WIDTH + 1} instead of {LANGUAGE_WIDTH}": (
                lambda: block(wide_hidden, keys, values, visible)
            ),
            f"hidden states of rank 2 ({TEXT}, {LANGUAGE_WIDTH})": lambda: block(hidden[0], keys, values, visible),
        }


def blocks_of(part: LayersConnector) -> list[DecoderBlock]:
    """The blocks; raises `CheckFailure` where there is none, or one is of another class."""
    blocks = [block for block in part.blocks if isinstance(block, DecoderBlock)]
    strangers = [type(block).__name__ for block in part.blocks if not isinstance(block, DecoderBlock)]
    require(bool(blocks) and not strangers, f"`blocks` must hold `DecoderBlock`s; beside {len(blocks)} it holds {strangers}")
    return blocks
