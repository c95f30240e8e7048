"""A component together with its options: what a part of a config becomes once it is understood."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from vlmzoo_registry.component import Component
from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import PluginError

if TYPE_CHECKING:
    from vlmzoo_registry.tasks import Dataset


def _dump(choice: "Choice") -> dict[str, Any]:
    return choice.dump()


@dataclass(frozen=True)
class Choice:
    """A component of the catalogue and its options, an instance of the component's own config class."""

    component: Component
    config: ComponentConfig

    def dump(self) -> dict[str, Any]:
        """`{name: full name, **options}` as plain data, defaults written out; loads back equal."""
        return {"name": self.component.full_name, **self.config.model_dump(mode="json")}

    def make(self, contract: type) -> Any:
        """What the component makes of its options alone, an instance of `contract`: `choice.make(Dataset)`.

        Parts of a model are made by `assemble`, which knows what they must fit to. Raises `PluginError` for anything else than
        the contract promises.
        """
        made = self.component.load_factory()(self.config)
        if not isinstance(made, contract):
            raise PluginError(f"`{self.component.full_name}` makes a {type(made).__name__}, not a {contract.__name__}")
        return made

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A field of this type takes an instance, and is dumped by `dump`."""
        return core_schema.is_instance_schema(cls, serialization=core_schema.plain_serializer_function_ser_schema(_dump))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Left open here: which components there are is the catalogue's to say (`schema.py`)."""
        return {}


@dataclass(frozen=True)
class DataChoice(Choice):
    """A dataset with the rules that are applied to it, in this order."""

    rules: tuple[Choice, ...] = ()

    def dump(self) -> dict[str, Any]:
        """As `Choice.dump`, with `rules` where there are any."""
        return super().dump() | ({"rules": [rule.dump() for rule in self.rules]} if self.rules else {})

    def make(self, contract: type) -> Any:
        """The dataset with its rules applied. Raises what they raise."""
        return self.ruled(super().make(contract))[0]

    def unruled(self) -> "Dataset":
        """The dataset as it is without the rules."""
        from vlmzoo_registry.tasks import Dataset

        rows: Dataset = super().make(Dataset)
        return rows

    def ruled(self, rows: "Dataset") -> "tuple[Dataset, tuple[str, ...]]":
        """The rows with the rules applied, and a note of what each did."""
        from vlmzoo_registry.tasks import Rule  # imports Pillow

        notes = []
        for rule in self.rules:
            ruled = rule.make(Rule).apply(rows)
            rows = ruled.rows
            notes.append(ruled.note)
        return rows, tuple(notes)
