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

    architecture: Literal["unified", "cross_attention"] = Field(
        description="How image and text meet: `unified` places image tokens in the text, `cross_attention` adds layers to "
        "the decoder that attend to them. Where a chain for `cross_attention` ends without a connector that builds such layers "
        "(capability `layers`), `connectors/cross-attention` with its defaults is added to it."
    )
    vision: Choice = Field(description="The vision encoder (`vlmzoo list --kind vision_encoder`).")
    connector: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)] = Field(
        description="The connector, or the chain of connectors, image side first (`vlmzoo list --kind connector`)."
    )
    language: Choice = Field(description="The language model (`vlmzoo list --kind language_model`).")
    template: Choice = Field(description="The style of conversation (`vlmzoo list --kind template`).")

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """One vision encoder in this version."""
        vision = values.get("vision")
        if isinstance(vision, list | tuple) and len(vision) != 1:
            return [("vision", f"has {len(vision)} vision encoders; this version takes exactly 1")]
        return []
