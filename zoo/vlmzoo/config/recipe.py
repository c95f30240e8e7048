"""A whole recipe: a model, and the stages that train it."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from vlmzoo.config.about import About
from vlmzoo.config.model import ModelConfig
from vlmzoo.config.section import Section
from vlmzoo.config.stage import StageConfig


class Recipe(Section):
    """Everything a training run is told: the same recipe and seed give the same run."""

    called: ClassVar[str] = "a recipe"

    # A run is the same whatever is said about it, so it is left out of what a run records.
    about: About | None = Field(default=None, exclude=True, description="What the recipe reproduces, for readers.")
    model: ModelConfig = Field(description="The parts, and how they meet.")
    stages: Annotated[tuple[StageConfig, ...], Field(strict=False)] = Field(description="The stages, one after the other.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="What every random draw starts from.")

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """There is a stage, and each has a name, and so a folder, of its own."""
        stages = values.get("stages")
        if not isinstance(stages, list | tuple):
            return []
        if not stages:
            return [("stages", "is empty: give at least 1 stage")]
        names = [name for name in map(_name, stages) if name is not None]
        twice = sorted({name for name in names if names.count(name) > 1})
        return [("stages", f"has {names.count(name)} stages called `{name}`: give each a name of its own") for name in twice]


def _name(stage: Any) -> str | None:
    """The name of a stage, checked or as it was written; None where it has none that could be compared."""
    name = stage.get("name") if isinstance(stage, Mapping) else getattr(stage, "name", None)
    return name if isinstance(name, str) else None
