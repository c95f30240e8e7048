"""Gated cross-attention blocks between the decoder's layers: which ones, where, and how they are built from the options.

Flamingo (arXiv:2204.14198, section 3.2), IDEFICS (arXiv:2306.16527), Llama 3 (arXiv:2407.21783, section 7.2).
"""

from typing import Literal

from torch import nn

from vlmzoo_connectors.config import CrossAttentionConfig
from vlmzoo_connectors.flamingo_block import FlamingoBlock
from vlmzoo_connectors.llama_block import LlamaBlock
from vlmzoo_registry import AssemblyError, ConnectorContext, DecoderBlock, LayersConnector


class CrossAttention(LayersConnector):
    """One block for each layer that the placement rule names; raises `AssemblyError` with every reason why it does not fit."""

    def __init__(self, config: CrossAttentionConfig, context: ConnectorContext) -> None:
        super().__init__()
        self._place, self._attend, self._masked_rows = config.place, config.attend, config.masked_rows
        reasons = _misfits(config, context)
        if reasons:
            raise AssemblyError("`connectors/cross-attention` does not fit to the language model", reasons)
        self._placement = _placement(config, context.language_depth)
        self.blocks = nn.ModuleList(_block(config, context) for _ in self._placement)

    @property
    def placement(self) -> tuple[int, ...]:
        """The decoder layers the blocks belong to, ascending, one for each block."""
        return self._placement

    @property
    def place(self) -> Literal["before", "after"]:
        """Whether a block runs before or after its decoder layer."""
        return self._place

    @property
    def attend(self) -> Literal["last", "all"]:
        """Which images a text position sees."""
        return self._attend

    @property
    def masked_rows(self) -> Literal["zero", "feedforward", "hf_mllama"]:
        """What happens at text positions that see no image."""
        return self._masked_rows

    @property
    def gates(self) -> tuple[nn.Parameter, ...]:
        """Two of each block: of the attention and of the feed-forward."""
        return tuple(gate for block in self.blocks for gate in map(block.get_parameter, ("attention_gate", "feedforward_gate")))


def _placement(config: CrossAttentionConfig, depth: int) -> tuple[int, ...]:
    if config.layers is not None:
        return config.layers
    assert config.every is not None
    first = 0 if config.place == "before" else config.every - 1
    return tuple(range(first, depth, config.every))


def _misfits(config: CrossAttentionConfig, context: ConnectorContext) -> list[str]:
    depth, width = context.language_depth, context.language_width
    if depth < 1 or width < 1:
        return [
            "its blocks stand between decoder layers, and the language model names none: "
            f"`language_depth` (={depth}), `language_width` (={width}); `architecture: unified` works without"
        ]
    reasons = []
    if config.layers is not None and config.layers[-1] >= depth:
        beyond = [layer for layer in config.layers if layer >= depth]
        reasons.append(f"`layers` names {beyond}, and the decoder has {depth} layers: the last is {depth - 1}")
    if not _placement(config, depth):
        reasons.append(f"`every` (={config.every}) with `place: after` puts no block into a decoder of {depth} layers")
    if config.form == "llama" and config.head_width is None and width % config.heads:
        reasons.append(f"`heads` (={config.heads}) must divide the language width (={width}) unless `head_width` is given")
    return reasons


def _block(config: CrossAttentionConfig, context: ConnectorContext) -> DecoderBlock:
    width = context.language_width
    feedforward_width = config.feedforward_width or round((config.feedforward_multiplier or 4) * width)
    if config.form == "flamingo":
        return FlamingoBlock(
            width=width,
            token_width=context.input.width,
            heads=config.heads,
            head_width=config.head_width or 64,
            feedforward_width=feedforward_width,
            activation=config.activation or "gelu",
            norm_epsilon=config.norm_epsilon,
            masked_rows=config.masked_rows,
            gate_width=width if config.gate == "vector" else 1,
        )
    return LlamaBlock(
        width=width,
        token_width=context.input.width,
        heads=config.heads,
        key_value_heads=config.key_value_heads or config.heads,
        head_width=config.head_width or width // config.heads,
        query_key_norm=config.query_key_norm is not False,
        feedforward_width=feedforward_width,
        activation=config.activation or "silu",
        norm_epsilon=config.norm_epsilon,
        masked_rows=config.masked_rows,
        gate_width=width if config.gate == "vector" else 1,
    )
