"""Turn a config into a model: the one place where parts are made, told their widths, and checked against each other.

All reasons why a combination does not fit are collected before any is raised.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from vlmzoo.config import Choice, ModelConfig, load_model
from vlmzoo.data.encode import ImageToken
from vlmzoo.data.instruction import Instructions
from vlmzoo.data.reader import ImageReader, ThumbnailText, one_marker
from vlmzoo.exits import refuses_exit
from vlmzoo.image_token import find_image_token
from vlmzoo.manifest import ComponentRecord
from vlmzoo.model.configuration import VLMConfig
from vlmzoo.model.cross_attention import CrossAttentionVLM
from vlmzoo.model.hybrid import HybridVLM
from vlmzoo.model.merged_encoder import MergedEncoder
from vlmzoo.model.shapes import shapes_at
from vlmzoo.model.tensors import layout as tensor_layout
from vlmzoo.model.unified import UnifiedVLM
from vlmzoo.model.vlm import PARTS, VLM, connector_part
from vlmzoo.processor import VLMProcessor
from vlmzoo.tokenizer import read_tokenizer
from vlmzoo_registry import (
    Arrangement,
    AssemblyError,
    Catalogue,
    Connector,
    ConnectorContext,
    FeatureShape,
    ImageLayout,
    ImageSize,
    ImageText,
    InstructedConnector,
    LanguageModel,
    LayersConnector,
    LayoutContext,
    NoOptions,
    PluginError,
    Template,
    VisionEncoder,
    VlmzooError,
)
from vlmzoo_registry.report import failure
from vlmzoo_registry.whole import Whole

ARCHITECTURES: dict[str, type[VLM]] = {
    "unified": UnifiedVLM,
    "cross_attention": CrossAttentionVLM,
    "hybrid": HybridVLM,
}
"""The class of each `architecture:`."""


@dataclass(frozen=True)
class Parts:
    """The parts of a model that fit together, and the shape of an image's features after each step."""

    vision: VisionEncoder
    connector: tuple[Connector | LayersConnector, ...]
    language: LanguageModel
    layout: ImageLayout
    shapes: tuple[FeatureShape, ...]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The three parts by name, as `VLM.parts` has them."""
        modules = (self.vision, connector_part(self.connector, self.layout), self.language)
        return dict(zip(PARTS, modules, strict=True))


@refuses_exit
def build(
    config: ModelConfig | Mapping[str, Any] | str | PathLike[str],
    *,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> VLM:
    """Assemble a model from a `model:` section, given as a mapping, a YAML file (a whole recipe too), or a `ModelConfig`.

    Pretrained parts are loaded, others start at random. The model comes in evaluation mode, with `model.processor`.

    Raises `ConfigError` for a config that is not understood and `AssemblyError` with every reason why the parts do not fit.
    """
    model_config = config if isinstance(config, ModelConfig) else load_model(config, overrides, catalogue)
    parts = assemble(model_config)
    tokenizer = read_tokenizer(model_config.language, parts.language)
    token, token_id = find_image_token(tokenizer, parts.layout.control_tokens)
    parts.language.resize(len(tokenizer))
    vlm = finish(model_config, parts, token_id)
    vlm.processor = make_processor(vlm, model_config, tokenizer, token)
    vlm.generation_config.eos_token_id = stop_ids(tokenizer, vlm.processor.template)
    vlm.generation_config.bos_token_id = tokenizer.bos_token_id
    vlm.generation_config.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    # A generated placeholder would claim an image that is not there.
    vlm.generation_config.suppress_tokens = [token_id]
    return vlm


def assemble(config: ModelConfig, *, described: bool = False) -> Parts:
    """Make the parts and check that they fit.

    With `described`, pretrained parts are made at random from what this machine knows of their architecture: under
    `torch.device("meta")` that is a plan. Raises `AssemblyError` with every reason that can be known.
    """
    reasons: list[str] = []
    out_of_place = set()
    last = len(config.connector) - 1
    for index, choice in enumerate(config.connector):
        in_decoder = "layers" in choice.component.spec.capabilities
        name = f"`connector.{index}` ({choice.component.full_name})"
        before = len(reasons)
        if in_decoder and config.architecture == "unified":
            reasons.append(f"{name} builds blocks in the decoder: use `architecture: cross_attention`, or another connector")
        elif in_decoder and index != last:
            reasons.append(f"{name} builds blocks in the decoder, so it must be the last of the chain (is {index} of 0-{last})")
        elif not in_decoder and index == last and config.architecture != "unified":
            reasons.append(
                f"`architecture: {config.architecture}` needs a connector with the capability `layers` at the end of the "
                f"chain, for example `connectors/cross-attention`; {name} makes tokens for the text"
            )
        if len(reasons) > before:
            out_of_place.add(index)
    if config.architecture == "hybrid" and config.layout is None:
        reasons.append(
            "`architecture: hybrid` attends to the tiles of an image, and without a `layout` there are none: name one that "
            "cuts (`vlmzoo list --kind layout`)"
        )
    vision = _make_encoders(config, reasons, described=described)
    language = _make(config.language, LanguageModel, "language", reasons, described=described)
    if language is not None and config.architecture != "unified" and not language.layers_see_text:
        reasons.append(
            f"`architecture: {config.architecture}` puts blocks between decoder layers that see the whole text, and an encoder "
            f"of `language` ({config.language.component.full_name}) reads a part of it: use `architecture: unified`"
        )
    depth = 0
    if language is not None and config.architecture != "unified" and not out_of_place:
        depth = len(language.decoder_layers)
    if vision is None:
        reasons += _blocks_that_do_not_fit(config, language, depth, out_of_place)
        raise AssemblyError("the parts do not fit together", reasons)

    shapes = [vision.output_shape]
    connectors: list[Connector | LayersConnector] = []
    for index, choice in enumerate(config.connector):
        kind = LayersConnector if "layers" in choice.component.spec.capabilities else Connector
        if index in out_of_place or (language is None and index == last):
            break  # nothing can be said about what it must fit to
        # The last that makes tokens for the text gives them its width: with blocks behind it, only in a hybrid model.
        placed = last if config.architecture == "unified" else last - 1 if config.architecture == "hybrid" else None
        context = ConnectorContext(
            input=shapes[-1],
            output_width=language.width if language is not None and index == placed and kind is Connector else None,
            language_width=shapes[-1].width if language is None else language.width,
            language_depth=depth,
        )
        connector = _make(choice, kind, f"connector.{index}", reasons, context)
        if connector is None:
            reasons += _blocks_that_do_not_fit(config, language, depth, out_of_place) if index < last else []
            break
        connectors.append(connector)
        if isinstance(connector, Connector):
            try:
                shapes.append(connector.output_shape(shapes[-1]))
            except VlmzooError as error:
                reasons += _each(error, f"connector.{index}", choice)
                reasons += _blocks_that_do_not_fit(config, language, depth, out_of_place)
                break
        else:
            reasons += _misplaced(connector, f"`connector.{index}` ({choice.component.full_name})", depth)
    if not reasons and config.architecture != "cross_attention" and language is not None and shapes[-1].width != language.width:
        maker = _maker(config, last if config.architecture == "unified" else last - 1)
        reasons.append(
            f"{maker} gives tokens of width {shapes[-1].width}, but "
            f"those of `language` ({config.language.component.full_name}) have {language.width}: end the chain with a "
            "connector that projects, for example `connectors/linear` or `connectors/mlp`"
        )
    layout = None if reasons else _make_layout(config, vision, connectors, shapes[-1].width, reasons)
    if reasons or language is None or layout is None:
        raise AssemblyError("the parts do not fit together", reasons)
    return Parts(vision, tuple(connectors), language, layout, tuple(shapes))


def _blocks_that_do_not_fit(
    config: ModelConfig, language: LanguageModel | None, depth: int, out_of_place: Collection[int]
) -> list[str]:
    """What speaks against the blocks at the end of a chain of which an earlier part does not fit, so that it is said too.

    Where they stand does not depend on what they attend to, which is not known then.
    """
    last = len(config.connector) - 1
    choice = config.connector[last]
    if language is None or out_of_place or "layers" not in choice.component.spec.capabilities:
        return []
    reasons: list[str] = []
    unknown = FeatureShape(width=language.width, count=1, grid=None, prefix=1)
    context = ConnectorContext(input=unknown, output_width=None, language_width=language.width, language_depth=depth)
    blocks = _make(choice, LayersConnector, f"connector.{last}", reasons, context)
    name = f"`connector.{last}` ({choice.component.full_name})"
    return reasons if blocks is None else _misplaced(blocks, name, depth)


def _maker(config: ModelConfig, index: int) -> str:
    """The part whose tokens come into the text: a connector, or the encoder where none stands before the blocks."""
    if index < 0:
        return f"`vision` ({_names(config.encoders)})"
    return f"`connector.{index}` ({config.connector[index].component.full_name})"


def _names(choices: Sequence[Choice]) -> str:
    return " + ".join(choice.component.full_name for choice in choices)


def _make_encoders(config: ModelConfig, reasons: list[str], *, described: bool) -> VisionEncoder | None:
    """The encoder, or all of them merged into one; None where one could not be made."""
    if len(config.encoders) == 1:
        only = _make(config.encoders[0], VisionEncoder, "vision", reasons, described=described)
        return cast("VisionEncoder | None", only)
    encoders = [
        _make(choice, VisionEncoder, f"vision.{number}", reasons, described=described)
        for number, choice in enumerate(config.encoders)
    ]
    if any(encoder is None for encoder in encoders):
        return None
    try:
        return MergedEncoder(encoders, [choice.component.full_name for choice in config.encoders], config.merge or "channels")
    except AssemblyError as error:
        reasons += error.reasons
        return None


def _make_layout(
    config: ModelConfig,
    vision: VisionEncoder,
    connectors: Sequence[Connector | LayersConnector],
    width: int,
    reasons: list[str],
) -> ImageLayout | None:
    """The layout, told what a view of any size has become behind the connectors; None, with the reasons, where it cannot be."""

    def shape_at(size: ImageSize) -> FeatureShape:
        return shapes_at(vision, connectors, size)[-1]

    context = LayoutContext(view_size=vision.transform.size, shape_at=shape_at, width=width)
    if config.layout is None:
        return Whole(NoOptions(), context)
    layout = cast("ImageLayout | None", _make(config.layout, ImageLayout, "layout", reasons, context))
    if layout is not None and config.architecture == "hybrid":
        reasons += _tiles_without_a_whole(layout, f"`layout` ({config.layout.component.full_name})", vision.transform.size)
    return layout


def _tiles_without_a_whole(layout: ImageLayout, name: str, size: ImageSize) -> list[str]:
    """Why a hybrid model cannot read this layout's images: it cuts none, or shows no view of the whole beside its tiles."""
    high, wide = size
    sizes = [(high, 2 * wide), (2 * high, wide), (2 * high, 2 * wide)]
    cuts = [cut for cut in map(layout.arrangement, sizes) if layout.views(cut) > 1]
    if not cuts:
        return [f"{name} makes one view of every image, and `architecture: hybrid` attends to tiles: name one that cuts"]
    bare = next((cut for cut in cuts if layout.thumbnail(cut) is None), None)
    if bare is None:
        return []
    return [
        f"{name} cuts an image of {bare.width}x{bare.height} into {layout.views(bare)} tiles and has no view of the whole, "
        "which `architecture: hybrid` reads in the text: let it make one (`thumbnail: true`, where it has that option), or "
        "name another layout"
    ]


def finish(config: ModelConfig, parts: Parts, image_token_id: int) -> VLM:
    """Put parts that fit into the model of their architecture; its config says how to build them again offline."""
    vlm_config = VLMConfig(model=written_out(config), image_token_id=image_token_id)
    architecture = ARCHITECTURES[config.architecture]
    vlm = architecture(vlm_config, parts.vision, parts.connector, parts.language, parts.layout)
    vlm.components = component_records(config)
    vlm.built = {part: tensor_layout(module) for part, module in vlm.parts.items()}
    return vlm


def component_records(config: ModelConfig) -> dict[str, tuple[ComponentRecord, ...]]:
    """Which component made each part, and who ships it: what a checkpoint needs to be loaded again."""
    made = {
        "vision": config.encoders,
        "connector": (*config.connector, *config.layout_choices),
        "language": (config.language,),
    }
    return {part: tuple(map(_record, choices)) for part, choices in {**made, "template": (config.template,)}.items()}


def _record(choice: Choice) -> ComponentRecord:
    return ComponentRecord(
        kind=choice.component.spec.kind,
        name=choice.component.full_name,
        distribution=choice.component.distribution,
        version=choice.component.version,
    )


def resolved(config: ModelConfig) -> ModelConfig:
    """The same model with every pretrained part written out as an architecture; reads configuration files, offline.

    Raises `AssemblyError` with every part whose architecture is not known on this machine.
    """
    reasons: list[str] = []
    several = len(config.encoders) > 1
    encoders = [
        _resolved(choice, f"vision.{number}" if several else "vision", reasons) for number, choice in enumerate(config.encoders)
    ]
    language = _resolved(config.language, "language", reasons)
    if reasons:
        raise AssemblyError("the architecture of a part is not known", reasons)
    return config.model_copy(update={"vision": tuple(encoders) if several else encoders[0], "language": language})


def _resolved(choice: Choice, where: str, reasons: list[str]) -> Choice | None:
    """The component with its architecture written out, or None and the reasons."""
    try:
        factory: Any = choice.component.load_factory()  # a class of the kind's contract, which says `resolve`
        return Choice(choice.component, factory.resolve(choice.config))
    except VlmzooError as error:
        reasons += _each(error, where, choice)
        return None


def written_out(config: ModelConfig) -> dict[str, Any]:
    """What `config.json` keeps: the resolved `model:` section as plain data."""
    section = resolved(config)
    encoders = [choice.dump() for choice in section.encoders]
    return {
        "architecture": section.architecture,
        "vision": encoders[0] if len(encoders) == 1 else encoders,
        **({} if section.merge is None else {"merge": section.merge}),
        "connector": [choice.dump() for choice in section.connector],
        "language": section.language.dump(),
        **({} if section.layout is None else {"layout": section.layout.dump()}),
        "template": section.template.dump(),
    }


def make_processor(
    vlm: VLM,
    config: ModelConfig,
    tokenizer: Any,
    token: str,
    instructions: PreTrainedTokenizerBase | None = None,
) -> VLMProcessor:
    """The processor of a model: its tokenizer, its encoder's transform, its template, and how many ids stand for an image.

    `instructions` is the tokenizer of a connector that reads them; default: the one that it names.
    """
    template = make_template(config.template, tokenizer)
    images = ImageReader(vlm.vision.transform, vlm.layout, image_text(config, vlm))
    return VLMProcessor(
        tokenizer=tokenizer,
        images=images,
        template=template,
        image_token=ImageToken(text=token, id=vlm.config.image_token_id, slots=sum(images.slots(vlm.own_arrangement))),
        instructions=_instructions(vlm, instructions),
    )


def _instructions(vlm: VLM, tokenizer: PreTrainedTokenizerBase | None) -> Instructions | None:
    """For the connector which reads the instruction, if there is one; raises `AssemblyError` if its tokenizer is not there."""
    for part in vlm.connector:
        if isinstance(part, InstructedConnector):
            try:
                return Instructions(part.tokenizer if tokenizer is None else tokenizer, part.longest_instruction)
            except (OSError, ValueError) as error:  # what transformers raises for a tokenizer that is not there
                reason = " ".join(str(error).split())
                raise AssemblyError(f"the tokenizer of `{type(part).__name__}` cannot be read: {reason}") from error
    return None


def image_text(config: ModelConfig, vlm: VLM) -> Callable[[Arrangement], ImageText]:
    """What stands for an image in the text: what its layout says, one marker, or the slots of its thumbnail."""
    if config.architecture == "unified":
        return vlm.layout.text
    if config.architecture == "cross_attention":
        return one_marker
    return ThumbnailText(vlm.layout, vlm.image_shape.count, vlm.vision.transform.size)


def use_template(vlm: VLM, choice: Choice) -> None:
    """Let a model speak in another style from now on: its processor, where it stops, and what its checkpoints keep.

    Raises `AssemblyError` where its tokenizer lacks what the style writes; the model is then as it was.
    """
    template = make_template(choice, vlm.processor.tokenizer)
    vlm.processor.template = template
    vlm.generation_config.eos_token_id = stop_ids(vlm.processor.tokenizer, template)
    vlm.config.model = {**vlm.config.model, "template": choice.dump()}
    vlm.components = {**vlm.components, "template": (_record(choice),)}


def make_template(choice: Choice, tokenizer: Any) -> Template:
    """The style of conversation, for this tokenizer. Raises `AssemblyError` where they do not fit together."""
    bound = choice.make(Template).bind(tokenizer)
    if not isinstance(bound, Template):
        raise PluginError(f"`{choice.component.full_name}` makes a {type(bound).__name__}, not a Template")
    return bound


def stop_ids(tokenizer: Any, template: Template) -> int | list[int] | None:
    """The ids at which generation stops: those at which training let the answers end, and the tokenizer's own end token."""
    ids = [] if template.stop is None else [tokenizer.convert_tokens_to_ids(template.stop)]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.append(tokenizer.eos_token_id)
    return ids[0] if len(ids) == 1 else ids or None


def _make(choice: Choice, contract: type, where: str, reasons: list[str], *context: Any, described: bool = False) -> Any:
    """A part, or None and a reason; with `described` without its pretrained weights."""
    try:
        factory: Any = choice.component.load_factory()
        part = factory(factory.resolve(choice.config) if described else choice.config, *context)
    except VlmzooError as error:
        reasons += _each(error, where, choice)
        return None
    except OSError as error:  # a file that is not there, a hub that does not answer
        reasons.append(f"`{where}` ({choice.component.full_name}): {' '.join(str(error).split())}")
        return None
    except Exception as error:
        raise PluginError(f"`{where}`: {choice.component} could not be made: {failure(error)}") from error
    if not isinstance(part, contract) or not isinstance(part, nn.Module):
        raise PluginError(
            f"`{choice.component.full_name}` ({choice.component.distribution}) makes a {type(part).__name__}, which is not a "
            f"`vlmzoo_registry.{contract.__name__}`: derive its factory from that"
        )
    return part


def _each(error: VlmzooError, where: str, choice: Choice) -> list[str]:
    """The reasons of a part's own error, each with the part it comes from."""
    return [f"`{where}` ({choice.component.full_name}): {reason}" for reason in error.reasons or (error.message,)]


def _misplaced(connector: LayersConnector, name: str, depth: int) -> list[str]:
    placement = connector.placement
    reasons = [
        f"{name} places a block at decoder layer {layer}, but the language model has {depth} (0 to {depth - 1})"
        for layer in placement
        if not 0 <= layer < depth
    ]
    if len(placement) != len(connector.blocks) or list(placement) != sorted(set(placement)):
        reasons.append(f"{name} has {len(connector.blocks)} blocks for the layers {list(placement)}: one each, ascending")
    return reasons
