"""The static check: what a recipe will build, without a download, a weight or a step.

Parts are built on torch's meta device, where tensors have shapes and no values; architectures are read from configuration
files that are on this machine.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import torch
from torch import nn

from vlmzoo.assemble import Parts, assemble, make_template
from vlmzoo.config import ModelConfig, Recipe, StageConfig, load_either
from vlmzoo.image_token import find_image_token
from vlmzoo.offline import offline
from vlmzoo_registry import Catalogue, LanguageModel, LayersConnector
from vlmzoo_registry.notes import Note


@dataclass(frozen=True)
class PartPlan:
    """One part: its component, its size, and what training it costs (bytes, without activations)."""

    part: str
    component: str
    parameters: int
    trained: int
    weight_bytes: int
    training_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a recipe will build.

    `steps` says what an image is after each part, in order; `notes` what this machine does not know.
    """

    architecture: str
    parts: tuple[PartPlan, ...]
    steps: tuple[str, ...]
    image_tokens: int
    text_slots: int
    blocks: tuple[int, ...]
    stage: str | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def plan(
    config: Recipe | ModelConfig | Mapping[str, Any] | str | PathLike[str],
    *,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Plan:
    """Check a recipe, or a model alone, and say what it will build.

    Raises `ConfigError` and `AssemblyError` with every reason for refusal at once.
    """
    model, stage = _load(config, overrides, catalogue)
    with offline(), torch.device("meta"), _noted() as notes:
        parts = assemble(model, described=True)
        notes += _meet_tokenizer(model, parts.language)
    return _describe(model, parts, stage, tuple(dict.fromkeys(notes)))


@contextmanager
def _noted() -> Iterator[list[str]]:
    """The notes of the parts that are made meanwhile; other warnings are passed on."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Note)
        yield notes
    notes[:0] = [str(warning.message) for warning in caught if issubclass(warning.category, Note)]
    for warning in caught:
        if not issubclass(warning.category, Note):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _meet_tokenizer(model: ModelConfig, language: LanguageModel) -> tuple[str, ...]:
    """Give the embedding the rows that `build` gives it, and try the template; or say why that is not known here."""
    try:
        tokenizer = language.tokenizer
    except (OSError, ValueError) as error:  # what transformers raises for a tokenizer that is not there
        reason = str(error).strip().splitlines()[0]
        return (
            f"the tokenizer cannot be read on this machine ({reason}): rows that its image token adds are not counted, and "
            "whether it has what the template writes is not known",
        )
    make_template(model.template, tokenizer)
    find_image_token(tokenizer)
    language.resize(len(tokenizer))
    return ()


def _describe(model: ModelConfig, parts: Parts, stage: StageConfig | None, notes: tuple[str, ...]) -> Plan:
    chain = nn.ModuleList(parts.connector)
    names = {
        "vision": model.vision.component.full_name,
        "connector": " + ".join(choice.component.full_name for choice in model.connector),
        "language": model.language.component.full_name,
    }
    unused = {"vision": parts.vision.unused_parameters}
    plans = []
    for part, module in (("vision", parts.vision), ("connector", chain), ("language", parts.language)):
        trains = stage is not None and part in stage.train
        parameters = dict(module.named_parameters())
        trained = {name: p for name, p in parameters.items() if trains and name not in unused.get(part, ())}
        weights = sum(_bytes(p) for p in parameters.values())
        plans.append(
            PartPlan(
                part=part,
                component=names[part],
                parameters=sum(p.numel() for p in parameters.values()),
                trained=sum(p.numel() for p in trained.values()),
                weight_bytes=weights,
                # A gradient, and AdamW's two moments, all of the parameter's own type.
                training_bytes=3 * sum(_bytes(p) for p in trained.values()),
            )
        )
    transform = parts.vision.transform
    labels = [model.vision.component.full_name, *(choice.component.full_name for choice in model.connector)]
    steps = [f"image {transform.width}x{transform.height}"]
    steps += [f"{label}: {shape}" for label, shape in zip(labels, parts.shapes, strict=False)]
    blocks: tuple[int, ...] = ()
    last = parts.connector[-1]
    if isinstance(last, LayersConnector):
        blocks = last.placement
        steps.append(f"{labels[-1]}: {len(blocks)} blocks, {last.place} decoder layers {', '.join(map(str, blocks))}")
    return Plan(
        architecture=model.architecture,
        parts=tuple(plans),
        steps=tuple(steps),
        image_tokens=parts.shapes[-1].count,
        text_slots=parts.shapes[-1].count if model.architecture == "unified" else 1,
        blocks=blocks,
        stage=None if stage is None else stage.name,
        notes=notes,
    )


def _load(config: Any, overrides: Sequence[str], catalogue: Catalogue | None) -> tuple[ModelConfig, StageConfig | None]:
    if isinstance(config, ModelConfig):
        return config, None
    if isinstance(config, Recipe):
        return config.model, config.stages[0]
    model, recipe = load_either(config, overrides, catalogue)
    return model, None if recipe is None else recipe.stages[0]


def _bytes(parameter: torch.Tensor) -> int:
    return parameter.numel() * parameter.element_size()
