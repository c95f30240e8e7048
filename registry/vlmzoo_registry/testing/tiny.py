"""The tiny instance that a description speaks of: its options, and the part itself, held to the contract of its kind."""

import json
from typing import Any, TypeVar

from vlmzoo_registry.component import Component
from vlmzoo_registry.config import ComponentConfig
from vlmzoo_registry.testing.check import CheckFailure, NotApplicable

Part = TypeVar("Part")


def tiny_config(component: Component) -> ComponentConfig:
    """The options of the tiny instance, read as a recipe's are. Raises `NotApplicable` where the description has none."""
    if component.spec.tiny is None:
        raise NotApplicable("the description has no `tiny`")
    return read_config(component, component.spec.tiny)


def read_config(component: Component, options: dict[str, Any]) -> ComponentConfig:
    """Options under the rules of a recipe, which are JSON's: a list may become a tuple, but never a text a number."""
    return component.load_config().model_validate_json(json.dumps(options), strict=True)


def make(component: Component, contract: type[Part], config: ComponentConfig, *context: object) -> Part:
    """Call the factory; raises `CheckFailure` where what it makes is not of its kind's contract."""
    part = component.load_factory()(config, *context)
    if not isinstance(part, contract):
        raise CheckFailure(
            f"the factory `{component.spec.factory}` makes a {type(part).__name__}, which is no "
            f"`vlmzoo_registry.{contract.__name__}`"
        )
    return part
