"""What the sections of a recipe share: strict types, nothing ignored, nothing changed later."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """One kind of mapping in a recipe.

    `called` is its name in messages. `conflicts` is where a section says which of its values do not go together.
    """

    # Parts may hold an infinite number in an open option: it must not be dumped as null.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ser_json_inf_nan="constants", protected_namespaces=()
    )

    called: ClassVar[str]

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with these values taken together, as (key, message).

        Also called on values that are wrong in themselves, so that everything is reported at once: it must look at types.
        """
        return []

    @model_validator(mode="after")
    def _no_conflicts(self) -> Self:
        found = self.conflicts(dict(self))
        if found:
            raise PydanticCustomError("conflict", "{text}", {"text": "; ".join(f"`{key}`: {text}" for key, text in found)})
        return self

    def dump(self) -> dict[str, Any]:
        """The section as plain data, defaults written out; loads back equal."""
        return self.model_dump(mode="json")
