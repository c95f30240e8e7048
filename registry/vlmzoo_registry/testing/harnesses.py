"""Which harness a component is checked in, and how a tiny instance of each kind is made."""

from collections.abc import Callable
from typing import Any

from vlmzoo_registry.component import Component
from vlmzoo_registry.tasks import Dataset, Metric, Objective, Rule, Template
from vlmzoo_registry.testing.connector_harness import ConnectorHarness
from vlmzoo_registry.testing.harness import Harness
from vlmzoo_registry.testing.language_harness import LanguageHarness
from vlmzoo_registry.testing.layers_harness import LayersHarness
from vlmzoo_registry.testing.layout_harness import LayoutHarness
from vlmzoo_registry.testing.tiny import make, tiny_config
from vlmzoo_registry.testing.vision_harness import VisionHarness

TASKS = {"template": Template, "objective": Objective, "dataset": Dataset, "metric": Metric, "rule": Rule}


def harness_for(component: Component) -> Harness[Any]:
    """The harness of a part: a vision encoder, a connector, a layout, a language model."""
    if component.spec.kind == "layout":
        return LayoutHarness(component)
    if component.spec.kind == "connector":
        return LayersHarness(component) if "layers" in component.spec.capabilities else ConnectorHarness(component)
    return VisionHarness(component) if component.spec.kind == "vision_encoder" else LanguageHarness(component)


def builder_for(component: Component) -> Callable[[Component], object]:
    """What makes a tiny instance and asks it for all that it declares, by kind."""
    if component.spec.kind in TASKS:
        return lambda component: make(component, TASKS[component.spec.kind], tiny_config(component))

    def build(component: Component) -> object:
        harness = harness_for(component)
        part = harness.build()
        return part, harness.declared(part)

    return build
