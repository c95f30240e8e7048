"""The `model:` section of a recipe: which parts, and how they meet."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from vlmzoo.config.choice import Choice
from vlmzoo.config.section import Section

DECODER_BLOCKS = "connectors/cross-attention"
"""The connector, with its own defaults, that ends a chain for `architecture: cross_attention` which names none of its kind."""


class ModelConfig(Section):
    """A model: its parts and its architecture, resolved against the catalogue."""

    called: ClassVar[str] = "a model"

    architecture: Literal["unified", "cross_attention", "hybrid"] = Field(
        description="How image and text meet: `unified` places image tokens in the text, `cross_attention` adds layers to "
        "the decoder that attend to them, `hybrid` places those of the whole image in the text and attends to those of its "
        "tiles. Where a chain for `cross_attention` ends without a connector that builds such layers "
        "(capability `layers`), `connectors/cross-attention` with its defaults is added to it."
    )
    vision: Choice | Annotated[tuple[Choice, ...], Field(strict=False, min_length=2)] = Field(
        description="The vision encoder, or a list of several (`vlmzoo list --kind vision_encoder`)."
    )
    merge: Literal["channels", "tokens"] | None = Field(
        default=None,
        description="How the tokens of several encoders become one sequence: `channels` lays them over each other on the grid "
        "of the first, `tokens` puts them behind one another. Default where there are several: `channels`.",
    )
    connector: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)] = Field(
        description="The connector, or the chain of connectors, image side first (`vlmzoo list --kind connector`)."
    )
    language: Choice = Field(description="The language model (`vlmzoo list --kind language_model`).")
    layout: Choice | None = Field(
        default=None,
        description="How an image is cut into views, and how these stand in the text (`vlmzoo list --kind layout`). Default: "
        "the whole image is one view.",
    )
    template: Choice = Field(description="The style of conversation (`vlmzoo list --kind template`).")

    @property
    def encoders(self) -> tuple[Choice, ...]:
        """The vision encoder, or all of them."""
        return (self.vision,) if isinstance(self.vision, Choice) else self.vision

    @property
    def layout_choices(self) -> tuple[Choice, ...]:
        """The layout, where one is named."""
        return () if self.layout is None else (self.layout,)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """At least one encoder, and what says how several meet only where there are several."""
        vision = values.get("vision")
        if isinstance(vision, list | tuple) and not vision:
            return [("vision", "names no vision encoder: name one or more")]
        if values.get("merge") is not None and not (isinstance(vision, list | tuple) and len(vision) > 1):
            return [("merge", "is for several vision encoders, and there is one: leave it out")]
        return []
