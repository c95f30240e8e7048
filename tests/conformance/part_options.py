"""The options of the parts in this folder."""

from pydantic import ConfigDict, Field, field_validator

from vlmzoo_registry import ComponentConfig, NoOptions
from vlmzoo_toy.config import ToyLanguageConfig, ToyVisionConfig

__all__ = ["NoOptions"]


class VisionOptions(ToyVisionConfig):
    """A small image."""

    image_size: int = 16
    width: int = 8


class LanguageOptions(ToyLanguageConfig):
    """As the toy's."""


class TakesAnything(ComponentConfig):
    """Ignores what it does not know."""

    model_config = ConfigDict(extra="ignore")


class CanBeChanged(ComponentConfig):
    """Refuses what it does not know, but can be changed later."""

    model_config = ConfigDict(frozen=False)


class Forgets(ComponentConfig):
    """Leaves a field out where it is written down."""

    queries: int = Field(default=4, exclude=True)


class Doubles(ComponentConfig):
    """Changes a value each time it reads it."""

    queries: int = 4

    @field_validator("queries")
    @classmethod
    def _double(cls, value: int) -> int:
        return 2 * value
