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

from vlmzoo.activations import TEXT_TOKENS, activation_bytes
from vlmzoo.adapters import Adapter
from vlmzoo.assemble import Parts, assemble, make_template
from vlmzoo.config import ModelConfig, Recipe, StageConfig, TrainPart, load_either
from vlmzoo.exits import refuses_exit
from vlmzoo.image_token import find_image_token
from vlmzoo.known_shapes import KnownShapes
from vlmzoo.model.shapes import shapes_at
from vlmzoo.objectives import stage_objective
from vlmzoo.offline import offline
from vlmzoo.training.optimization import fresh_state
from vlmzoo.training.row_length import note_of_length, row_length
from vlmzoo.training.trainable import refusals, settle
from vlmzoo_registry import AssemblyError, Catalogue, ImageSize, LayersConnector, Objective
from vlmzoo_registry.notes import Note

TYPICAL: tuple[ImageSize, ...] = ((336, 336), (480, 640), (672, 672), (672, 1008), (1008, 672), (1080, 1920))
"""Heights and widths of images for which a plan says what they become, where that depends on the size."""


@dataclass(frozen=True)
class PartPlan:
    """One part: its component, and its size as it is built."""

    part: str
    component: str
    parameters: int
    weight_bytes: int


@dataclass(frozen=True)
class PartTraining:
    """One part in one stage: what of it trains, in words and parameters, and what that adds (bytes, without activations)."""

    part: str
    trains: str
    trained: int
    training_bytes: int


@dataclass(frozen=True)
class StagePlan:
    """One stage: what trains in it, and, very roughly, what the activations of one micro-batch come to.

    A micro-batch has `micro_batch` samples of one image, or where the stage's batching has a budget so many pieces of
    `piece_tokens` tokens.
    `cached_bytes` is what the features of an image of the encoder's own size take on disk, where the stage keeps them.
    """

    name: str
    parts: tuple[PartTraining, ...]
    micro_batch: int
    piece_tokens: int | None
    activation_bytes: int
    cached_bytes: int | None


@dataclass(frozen=True)
class SizePlan:
    """What an image of one size (`image`: width x height in pixels) becomes: views of the encoder, and tokens.

    `image_tokens` are all that the model reads of it, `text_slots` those that stand in the text.
    """

    image: str
    views: int
    image_tokens: int
    text_slots: int


@dataclass(frozen=True)
class Plan:
    """What a recipe will build.

    `stages` are those of a recipe, none for a model alone. `steps` says what a view of an image is after each part, in order;
    `image_tokens` and `text_slots` what an image of the encoder's own size becomes, `sizes` images of other sizes, where that
    depends on it; `notes` what this machine does not know.
    """

    architecture: str
    parts: tuple[PartPlan, ...]
    stages: tuple[StagePlan, ...]
    steps: tuple[str, ...]
    image_tokens: int
    text_slots: int
    sizes: tuple[SizePlan, ...]
    blocks: tuple[int, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


@refuses_exit
def plan(
    config: Recipe | ModelConfig | Mapping[str, Any] | str | PathLike[str],
    *,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Plan:
    """Check a recipe, or a model alone, and say what it will build.

    Raises `ConfigError` and `AssemblyError` with every reason for refusal at once.
    """
    model, stages, published = _load(config, overrides, catalogue)
    with offline(), torch.device("meta"), KnownShapes(), _noted() as notes:
        parts = assemble(model, described=True)
        objectives = [stage_objective(stage, parts.language, model.language.component.full_name) for stage in stages]
        lengths = [row_length(stage, parts.language) for stage in stages]
        notes += _meet_tokenizer(model, stages, objectives, parts)
        weights = _weights(model, parts)  # before adapters come on top
        images = _images(model, parts, published)
        for stage, rule in zip(stages, lengths, strict=True):
            notes += note_of_length(stage, rule, images[0].text_slots)
        trained = _train(parts, stages, images[0])
    return _describe(model, parts, weights, images, trained, tuple(dict.fromkeys(notes)))


@contextmanager
def _noted() -> Iterator[list[str]]:
    """The notes of the parts that are made meanwhile; other warnings are passed on."""
    notes: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", Note)
            yield notes
    finally:  # a refusal does not silence them
        notes[:0] = [str(warning.message) for warning in caught if issubclass(warning.category, Note)]
        for warning in caught:
            if not issubclass(warning.category, Note):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _meet_tokenizer(
    model: ModelConfig, stages: Sequence[StageConfig], objectives: Sequence[Objective], parts: Parts
) -> tuple[str, ...]:
    """Give the embedding the rows that `build` gives it, and try templates and objectives; or say why nobody knows here."""
    try:
        tokenizer = parts.language.tokenizer
    except (OSError, ValueError) as error:  # what transformers raises for a tokenizer that is not there
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return (
            f"the tokenizer cannot be read on this machine ({reason}): rows that its image token adds are not counted, and "
            "whether it has what the template writes is not known",
        )
    for choice in (model.template, *(stage.template for stage in stages if stage.template is not None)):
        make_template(choice, tokenizer)
    for objective in objectives:
        objective.bind(tokenizer)
    find_image_token(tokenizer, parts.layout.control_tokens)
    parts.language.resize(len(tokenizer))
    return ()


def _images(model: ModelConfig, parts: Parts, published: Sequence[ImageSize]) -> tuple[SizePlan, ...]:
    """What an image of the encoder's own size becomes, then images of other sizes, where there is a difference."""
    own = _image(model, parts, parts.vision.transform.size)
    if parts.layout.fixed is not None:
        return (own,)
    return own, *(_image(model, parts, size) for size in sorted({*TYPICAL, *published}))


def _image(model: ModelConfig, parts: Parts, size: ImageSize) -> SizePlan:
    cut = parts.layout.fixed or parts.layout.arrangement(size)
    views = parts.layout.views(cut)
    seen = slots = sum(piece for piece in parts.layout.text(cut) if isinstance(piece, int))
    if model.architecture == "hybrid":  # the thumbnail is read, the other views are attended to
        slots = shapes_at(parts.vision, parts.connector, parts.layout.view_size(cut))[-1].count
        seen = views * slots
    elif model.architecture == "cross_attention":
        slots = 1
    return SizePlan(image=f"{size[1]}x{size[0]}", views=views, image_tokens=seen, text_slots=slots)


def _weights(model: ModelConfig, parts: Parts) -> tuple[PartPlan, ...]:
    names = {
        "vision": " + ".join(choice.component.full_name for choice in model.encoders),
        "connector": " + ".join(choice.component.full_name for choice in model.connector),
        "language": model.language.component.full_name,
    }
    plans = []
    for part, module in parts.modules.items():
        parameters = list(module.parameters())
        count, size = sum(p.numel() for p in parameters), sum(p.numel() * p.element_size() for p in parameters)
        plans.append(PartPlan(part=part, component=names[part], parameters=count, weight_bytes=size))
    return tuple(plans)


def _train(parts: Parts, stages: Sequence[StageConfig], image: SizePlan) -> tuple[StagePlan, ...]:
    """What trains in each stage, one after the other: adapters are put on the parts, and merged, as training does it.

    Raises `AssemblyError` with every reason against the first stage that does not work; later ones build on it.
    """
    modules, adapters = parts.modules, dict[str, Adapter]()
    plans = []
    for number, stage in enumerate(stages):
        train: dict[str, TrainPart] = {str(part): settings for part, settings in stage.train.items()}
        reasons = refusals(modules, train, adapters)
        if reasons:
            raise AssemblyError(f"stage `{stage.name}` (`stages.{number}`) cannot train what it names", reasons)
        rows = []
        for part, module in modules.items():
            chosen = settle(part, module, train.get(part), adapters)
            trained = list(chosen.parameters.values())
            count, size = sum(p.numel() for p in trained), sum(_training_bytes(p) for p in trained)
            rows.append(PartTraining(part=part, trains=chosen.how, trained=count, training_bytes=size))
        views, tokens = _of_a_piece(stage, image)
        activations = activation_bytes(
            parts,
            views=stage.micro_batch * views,
            tokens=stage.micro_batch * tokens,
            precision=stage.precision,
            vision_trains=any(row.part == "vision" and row.trained for row in rows),
        )
        cached = image.views * _feature_bytes(parts) if stage.cache_features else None
        plans.append(StagePlan(stage.name, tuple(rows), stage.micro_batch, stage.batching.max_tokens, activations, cached))
    return tuple(plans)


def _of_a_piece(stage: StageConfig, image: SizePlan) -> tuple[int, int]:
    """The views and tokens of what stands together: a sample of one image, or as many of them as `max_tokens` lets in."""
    sample = image.text_slots + TEXT_TOKENS
    most, most_views = stage.batching.max_tokens, stage.batching.max_images
    if most is None:
        return image.views, sample
    views = image.views * max(1, most // sample)
    return (views if most_views is None else min(views, most_views)), most


def _feature_bytes(parts: Parts) -> int:
    """What the encoder makes of a view of its own size, in the type of its weights; one without any gives that of pixels."""
    shape, weight = parts.shapes[0], next(parts.vision.parameters(), None)
    return shape.count * shape.width * (torch.float32.itemsize if weight is None else weight.element_size())


def _training_bytes(parameter: torch.Tensor) -> int:
    """A gradient in the parameter's own type, and AdamW's state: two moments, and a float32 master of one of 16 bits."""
    state = fresh_state(parameter)
    per_number = parameter.element_size() + sum(state[key].element_size() for key in state.keys() - {"step"})
    return parameter.numel() * per_number


def _describe(
    model: ModelConfig,
    parts: Parts,
    weights: tuple[PartPlan, ...],
    images: tuple[SizePlan, ...],
    stages: tuple[StagePlan, ...],
    notes: tuple[str, ...],
) -> Plan:
    transform = parts.vision.transform
    labels = [
        " + ".join(choice.component.full_name for choice in model.encoders),
        *(choice.component.full_name for choice in model.connector),
    ]
    called = "image" if model.layout is None else "view"
    steps = [f"{called} {transform.width}x{transform.height}"]
    steps += [f"{label}: {shape}" for label, shape in zip(labels, parts.shapes, strict=False)]
    blocks: tuple[int, ...] = ()
    last = parts.connector[-1]
    if isinstance(last, LayersConnector):
        blocks = last.placement
        some = f"{len(blocks)} block{'s' * (len(blocks) != 1)}, {last.place} decoder layer{'s' * (len(blocks) != 1)}"
        steps.append(f"{labels[-1]}: {some} {', '.join(map(str, blocks))}")
    return Plan(
        architecture=model.architecture,
        parts=weights,
        stages=stages,
        steps=tuple(steps),
        image_tokens=images[0].image_tokens,
        text_slots=images[0].text_slots,
        sizes=images[1:],
        blocks=blocks,
        notes=notes,
    )


def _load(
    config: Any, overrides: Sequence[str], catalogue: Catalogue | None
) -> tuple[ModelConfig, tuple[StageConfig, ...], tuple[ImageSize, ...]]:
    """The model, the stages, and the sizes of images for which the recipe publishes figures."""
    if isinstance(config, ModelConfig):
        return config, (), ()
    model, recipe = (config.model, config) if isinstance(config, Recipe) else load_either(config, overrides, catalogue)
    if recipe is None:
        return model, (), ()
    published = None if recipe.about is None else recipe.about.published
    return model, recipe.stages, () if published is None else tuple(size for size in published.at_sizes() if size is not None)
