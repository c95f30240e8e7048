"""A whole recipe: a model, and the stages that train it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from vlmzoo.config.model import ModelConfig
from vlmzoo.config.section import Section
from vlmzoo.config.stage import StageConfig


class Recipe(Section):
    """Everything a training run is told: the same recipe and seed give the same run."""

    called: ClassVar[str] = "a recipe"

    model: ModelConfig = Field(description="The parts, and how they meet.")
    stages: Annotated[tuple[StageConfig, ...], Field(strict=False)] = Field(description="The stages, one after the other.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="What every random draw starts from.")

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """One stage in this version."""
        stages = values.get("stages")
        if isinstance(stages, list | tuple) and len(stages) != 1:
            return [("stages", f"has {len(stages)} stages; this version trains exactly 1")]
        return []
