"""The contracts of connectors: those that make sequence tokens, and those whose blocks sit in the decoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.features import FeatureShape, Grid
from vlmzoo_registry.vision import VisionFeatures


@dataclass(frozen=True)
class ConnectorContext:
    """What a connector is told about its neighbours; widths are derived by the assembler, never written by hand.

    `input` is what comes in; `output_width` is the width that must come out (the last connector of a chain whose tokens
    are placed in the text), or None where the connector may choose; `language_width` and `language_depth` are the language
    model's hidden size and its number of decoder layers (0 where they are not known).
    """

    input: FeatureShape
    output_width: int | None
    language_width: int
    language_depth: int

    @property
    def target_width(self) -> int:
        """The width a projecting connector puts out: the one that is asked for, or else that of the language model.

        Raises `AssemblyError` where neither is known.
        """
        width = self.output_width or self.language_width
        if width < 1:
            raise AssemblyError(
                f"tokens of width {self.input.width} are to be mapped to the width of the language model, and that is not "
                f"known: `output_width` (={self.output_width}), `language_width` (={self.language_width})"
            )
        return width


class Connector(nn.Module, ABC):
    """Implement this to bring a connector that maps vision tokens to tokens.

    The factory of a `connector` component without the capability `layers` is a class derived from this one (or a function
    that returns one), called as `factory(config, context)`. A misfit raises `AssemblyError` with both numbers.
    """

    @property
    @abstractmethod
    def output_width(self) -> int:
        """The width of the tokens that come out."""

    @abstractmethod
    def output_grid(self, grid: Grid | None) -> Grid | None:
        """The grid that comes out for the grid that goes in; None where tokens have no place.

        Raises `AssemblyError` for a grid that this connector cannot take.
        """

    @abstractmethod
    def token_count(self, grid: Grid | None, count: int) -> int:
        """How many tokens come out for `count` tokens, prefix included, of which the patches lie on `grid`."""

    @abstractmethod
    def forward(self, features: VisionFeatures) -> VisionFeatures:
        """Map the features of a batch of images."""

    @property
    def idle_parameters(self) -> frozenset[str]:
        """Names of parameters that train, but may go many steps without a gradient (experts that no token chose).

        Training stops where another parameter has no gradient in the first steps.
        """
        return frozenset()

    def output_shape(self, shape: FeatureShape) -> FeatureShape:
        """What comes out for features of this shape, before anything runs."""
        grid, count = self.output_grid(shape.grid), self.token_count(shape.grid, shape.count)
        prefix = 0 if grid is None else count - grid[0] * grid[1]
        return FeatureShape(width=self.output_width, count=count, grid=grid, prefix=prefix)


class InstructedConnector(Connector):
    """Implement this to bring a connector that reads the instruction too (capability `text`; InstructBLIP).

    The instruction of a row is what the user says before the first answer, without its images, in ids of the connector's own
    tokenizer: the same in training and in generation.
    """

    @property
    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the instruction; saved with the model."""

    @property
    def longest_instruction(self) -> int | None:
        """The most ids of an instruction that it can read, None for any number; a row with a longer one is refused by name."""
        return None

    @abstractmethod
    def forward(  # type: ignore[override]
        self, features: VisionFeatures, instruction_ids: Int[Tensor, "B Q"], instruction_mask: Int[Tensor, "B Q"]
    ) -> VisionFeatures:
        """Map the features of a batch of images, each with the instruction of its row; 0 in the mask is padding."""


class DecoderBlock(nn.Module, ABC):
    """One block between two decoder layers, through which the text attends to image tokens."""

    @abstractmethod
    def keys_values(self, tokens: Float[Tensor, "B M D"]) -> tuple[Tensor, Tensor]:
        """Keys and values of the image tokens, batch first; computed once per generation and cached."""

    @abstractmethod
    def forward(
        self, hidden: Float[Tensor, "B S d"], keys: Tensor, values: Tensor, visible: Bool[Tensor, "B S M"]
    ) -> Float[Tensor, "B S d"]:
        """The hidden states with what the visible image tokens add; the residual stream is included."""


class LayersConnector(nn.Module, ABC):
    """Implement this to bring a connector whose blocks sit in the decoder (capability `layers`).

    Constructed as `factory(config, context)`, where `context.input` is what its blocks attend to. The assembler runs
    `blocks[k]` before or after (`place`) decoder layer `placement[k]`, and restores the hidden states of text positions
    that see no image token, so that these are exactly those of the text-only model, where `masked_rows` is "zero".
    """

    blocks: nn.ModuleList

    @property
    @abstractmethod
    def placement(self) -> tuple[int, ...]:
        """The decoder layers the blocks belong to, ascending, one for each block."""

    @property
    @abstractmethod
    def place(self) -> Literal["before", "after"]:
        """Whether a block runs before or after its decoder layer."""

    @property
    @abstractmethod
    def attend(self) -> Literal["last", "all"]:
        """Which images a text position sees: the last one before it (Flamingo), or all before it."""

    @property
    @abstractmethod
    def masked_rows(self) -> Literal["zero", "feedforward", "hf_mllama"]:
        """What happens at text positions that see no image: nothing, the feed-forward, or what transformers' Mllama does.

        That attends to all image tokens of the batch's longest row alike, padding included, so that padding moves it. A row
        without any image is left as it is in any case.
        """

    @property
    @abstractmethod
    def gates(self) -> tuple[nn.Parameter, ...]:
        """The parameters that start at 0 and so hold back the gradient of the others."""

    @property
    def idle_parameters(self) -> frozenset[str]:
        """Names of parameters that train, but may go many steps without a gradient (experts that no token chose).

        Training stops where another parameter has no gradient in the first steps.
        """
        return frozenset()
