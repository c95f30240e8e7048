"""A component together with its options: what a part of a config becomes once it is understood."""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from vlmzoo_registry.component import Component
from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.errors import PluginError


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
        return core_schema.is_instance_schema(cls, serialization=core_schema.plain_serializer_function_ser_schema(cls.dump))

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Left open here: which components there are is the catalogue's to say (`schema.py`)."""
        return {}
