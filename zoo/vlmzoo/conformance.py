"""The conformance kit of `vlmzoo_registry.testing`, with the check that takes a whole model: saving and loading it.

`vlmzoo check` and the test suite run a component through both.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmzoo.assemble import build
from vlmzoo.checkpoint import load, save
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import (
    AssemblyError,
    Catalogue,
    Component,
    ConfigError,
    PluginError,
    PluginRecord,
    Template,
    default_catalogue,
)
from vlmzoo_registry.testing import CheckFailure, CheckFunction, NotApplicable, Report, require, run_checks
from vlmzoo_registry.testing.tiny import make, tiny_config

PARTNERS: dict[str, Any] = {
    "vision": {"name": "toy/vision", "image_size": 48},  # a grid of 6 x 6, for connectors that fold 2 x 2 or 3 x 3
    "connector": [{"name": "toy/connector"}],
    "language": {"name": "toy/language"},
    "template": {"name": "tasks/plain"},
}
"""What stands beside the component in the model; taken from the catalogue like any part."""

PLACES = {
    "vision_encoder": "vision",
    "connector": "connector",
    "layout": "layout",
    "language_model": "language",
    "template": "template",
}
"""Where a component of each kind stands in a `model:` section; kinds that are no part of a model are not here."""


def check_component(component: Component, *, expected_failures: Mapping[str, str] | None = None) -> Report:
    """Apply the kit to a component, and the checks of this module where it can be a part of a model."""
    return run_checks(component, extra=model_checks(component), expected_failures=expected_failures)


def model_checks(component: Component) -> tuple[CheckFunction, ...]:
    """The checks that take a whole model, for `checks_for(component, extra=...)`."""
    return (survives_saving_in_a_model,) if component.spec.kind in PLACES else ()


def survives_saving_in_a_model(component: Component) -> None:
    """In a model with toy parts, saved and loaded again, the logits are those from before, bit for bit.

    Why: a tensor that is computed once and not saved, or filled again while the model is rebuilt, makes a checkpoint another
    model than the one that was trained; shapes and names do not show it.

    If it fails: keep every value that matters in a parameter or a persistent buffer, derive the others from the config alone
    (not from random numbers, not from pretrained files), and leave nothing in plain attributes.
    """
    catalogue = _catalogue_with(component)
    vlm = _model_with(component, catalogue)
    with torch.no_grad():
        for parameter in vlm.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)  # away from where any constructor would put it
    batch = _batch(vlm.processor)
    with torch.no_grad(), TemporaryDirectory() as folder:
        before = vlm(**batch).logits
        save(vlm, Path(folder) / "checkpoint")
        loaded = load(Path(folder) / "checkpoint", catalogue=catalogue)
        after = loaded(**batch).logits
    changed = [name for name, tensor in _batch(loaded.processor).items() if not torch.equal(tensor, batch[name])]
    require(not changed, f"the processor of the loaded model makes other {', '.join(changed)} of the same text and images")
    distance = float((after - before).abs().max()) if after.shape == before.shape else float("nan")
    require(torch.equal(after, before), f"the logits of the loaded model differ by up to {distance:.2g}")


def _model_with(component: Component, catalogue: Catalogue) -> VLM:
    """The first model with this component that fits together."""
    refusals = []
    for section in _sections(component):
        try:
            return build(section, catalogue=catalogue)
        except AssemblyError as error:
            refusals.append(f"{section['architecture']}, connector {section['connector']}: {error}")
    raise CheckFailure("it fits into no model with toy parts", refusals)


def _sections(component: Component) -> list[dict[str, Any]]:
    """The models to be tried; a connector may need another behind it, to come to the language model's width."""
    if component.spec.tiny is None:
        raise NotApplicable("the description has no `tiny`")
    part = {"name": component.full_name, **component.spec.tiny}
    place = PLACES[component.spec.kind]
    if place == "template":
        control = list(make(component, Template, tiny_config(component)).control_tokens)  # type: ignore[type-abstract]
        language = {**PARTNERS["language"], "control_tokens": control}
        return [{"architecture": "unified", **PARTNERS, "language": language, "template": part}]
    if place == "layout":
        resampler = {"name": "connectors/resampler", "queries": 4, "depth": 1, "heads": 2, "head_width": 4}
        chains = (PARTNERS["connector"], [resampler, *PARTNERS["connector"]])  # some take a fixed number of tokens only
        return [{"architecture": "unified", **PARTNERS, "connector": chain, "layout": part} for chain in chains]
    if place != "connector":
        return [{"architecture": "unified", **PARTNERS, place: part}]
    if "layers" in component.spec.capabilities:
        return [{"architecture": "cross_attention", **PARTNERS, "connector": [part]}]
    return [{"architecture": "unified", **PARTNERS, "connector": chain} for chain in ([part], [part, *PARTNERS["connector"]])]


def _catalogue_with(component: Component) -> Catalogue:
    """The catalogue, with this very component under its name: it may have been put together by hand.

    Raises `NotApplicable` where a partner cannot be used.
    """
    catalogue = default_catalogue()
    try:
        for kind, place in PLACES.items():
            if place in PARTNERS:
                partner = PARTNERS[place][0] if place == "connector" else PARTNERS[place]
                catalogue.get(kind, partner["name"]).load_factory()
    except (ConfigError, PluginError) as error:
        raise NotApplicable(f"a partner for the model is missing: {error}") from error
    kind, name = component.spec.kind, component.full_name
    others = [
        replace(plugin, components=tuple(c for c in plugin.components if (c.spec.kind, c.full_name) != (kind, name)))
        for plugin in catalogue.plugins
    ]
    owner = (component.plugin, component.distribution, component.version)
    record = PluginRecord(*owner, reference="", status="ok", components=(component,), file=component.file)
    return replace(catalogue, plugins=(*others, record))


def _batch(processor: Any) -> dict[str, Tensor]:
    """Two rows of different length, an image each."""
    generator = np.random.default_rng(0)
    images = [[Image.fromarray(generator.integers(0, 256, (40, width, 3), dtype=np.uint8))] for width in (40, 56)]
    batch: dict[str, Tensor] = processor(text=["What is this?", "And which colour has it?"], images=images)
    return batch
