"""What trains: freezing, the optimizer's groups and the report come from one object per part, so they cannot disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import LoraConfig
from torch import nn

from vlmzoo.adapters import Adapter, adapter_parameters, add_adapters, ends_with, linear_layers, merge_adapters
from vlmzoo.config import TrainBias, TrainFull, TrainLast, TrainLora, TrainNorms, TrainPart
from vlmzoo.model.vlm import PARTS, VLM
from vlmzoo_registry import AssemblyError, Connector, LanguageModel, LayersConnector, VisionEncoder
from vlmzoo_registry.suggest import did_you_mean


@dataclass(frozen=True)
class PartState:
    """One part of a model in one stage: frozen where `settings` is None. `how` says in words what of it trains."""

    name: str
    settings: TrainPart | None
    trained: dict[str, nn.Parameter]
    frozen: dict[str, nn.Parameter]
    how: str

    @property
    def mode(self) -> str:
        """The word of the recipe."""
        return "frozen" if self.settings is None else self.settings.mode


@dataclass(frozen=True)
class Selection:
    """The parameters of a part that train, by name, and the same in words."""

    parameters: dict[str, nn.Parameter]
    how: str


def set_trainable(vlm: VLM, train: Mapping[str, TrainPart]) -> tuple[PartState, ...]:
    """Freeze what the stage does not name, and let the rest train; puts the model into training mode.

    Raises `AssemblyError` with every part that is to train and has nothing that could, or not what its mode asks for.
    """
    reasons = []
    for name, settings in train.items():
        try:
            check(name, vlm.parts[name], settings, vlm.adapters.get(name))
        except AssemblyError as error:
            reasons += [f"`train.{name}`: {reason}" for reason in error.reasons or (error.message,)]
    if reasons:
        raise AssemblyError("the stage cannot train what it names", reasons)
    states = []
    for name in PARTS:
        module, part_settings, adapter = vlm.parts[name], train.get(name), vlm.adapters.get(name)
        if part_settings is None:
            chosen = Selection({}, "frozen" if adapter is None else f"frozen, with {adapter.describe()}")
        elif isinstance(part_settings, TrainLora):
            vlm.adapters[name] = adapter or put_adapters(name, module, part_settings)
            chosen = Selection(dict(adapter_parameters(module)), vlm.adapters[name].describe())
        else:
            if adapter is not None:
                merge_adapters(module)
                del vlm.adapters[name]
            chosen = select(name, module, part_settings)
            if adapter is not None:
                chosen = Selection(chosen.parameters, f"{chosen.how}, adapters merged")
        frozen = {key: value for key, value in module.named_parameters() if key not in chosen.parameters}
        states.append(PartState(name, part_settings, chosen.parameters, frozen, chosen.how))
    for state in states:
        for parameter in state.frozen.values():
            parameter.requires_grad_(False)
        for parameter in state.trained.values():
            parameter.requires_grad_(True)
    vlm.train()
    return tuple(states)


def check(part: str, module: nn.Module, settings: TrainPart, adapter: Adapter | None) -> None:
    """Raise `AssemblyError` where a part cannot train in this mode, or has other adapters than it asks for; changes nothing."""
    if not isinstance(settings, TrainLora):
        select(part, module, settings)
        return
    layers = adapted_layers(part, module, settings)
    asked = (settings.rank, settings.alpha, settings.dropout)
    if adapter is not None:
        config = adapter.config
        there = (config.r, config.lora_alpha, config.lora_dropout)
        if there != asked or adapter.layers != set(layers):
            raise AssemblyError(
                "the part has adapters from an earlier stage, of rank {:g}, alpha {:g}, dropout {:g}".format(*there)
                + f" on {len(adapter.layers)} layers, and this one asks for "
                + "rank {:g}, alpha {:g}, dropout {:g}".format(*asked)
                + f" on {len(layers)}: give the same settings, and it goes on with them (any other mode merges them)"
            )


def put_adapters(part: str, module: nn.Module, settings: TrainLora) -> Adapter:
    """Put the adapters that a stage asks for on a part. Raises `AssemblyError` as `adapted_layers` does."""
    layers = adapted_layers(part, module, settings)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=layers, bias="none"
    )
    return add_adapters(module, config, layers)


def adapted_layers(part: str, module: nn.Module, settings: TrainLora) -> list[str]:
    """The names of the layers that get an adapter: linear ones of the part's blocks, never embeddings or the head.

    Of a connector that is all of it. Raises `AssemblyError` where there are none, or none that a target names.
    """
    usable = _usable(module)
    inside = [module] if part == "connector" else blocks_of(part, module, usable)
    layers = [name for name in linear_layers(module, inside) if f"{name}.weight" not in _unused(module)]
    if not layers:
        raise AssemblyError("there is no linear layer in it for an adapter (convolutions get none); use another mode")
    if settings.targets is None:
        return layers
    ends = sorted({name.rpartition(".")[2] for name in layers})
    reasons = [
        f"`targets` names `{target}`, and no linear layer of its blocks ends so{did_you_mean(target, ends)} (they "
        f"end in: {', '.join(ends)})"
        for target in settings.targets
        if not any(ends_with(name, target) for name in layers)
    ]
    if reasons:
        raise AssemblyError("adapters have no layer to be on", reasons)
    return [name for name in layers if any(ends_with(name, target) for target in settings.targets)]


def select(part: str, module: nn.Module, settings: TrainPart) -> Selection:
    """What of a part trains in a mode other than `lora`; nothing is changed.

    Parameters that no output depends on (an encoder's pooler, its blocks past the last tapped one), or that have no elements
    (DINOv3's registers where there are none), train in no mode.

    Raises `AssemblyError` where that is nothing, or not what the mode asks for.
    """
    usable = _usable(module)
    match settings:
        case TrainFull():
            chosen, how, lacking = usable, "full", "parameters that train"
        case TrainLast():
            last, count = _last_blocks(part, module, settings.layers, usable)
            chosen, how, lacking = _inside(last, usable), f"last {settings.layers} of {count} blocks", "parameters there"
        case TrainNorms():
            norms = [child for child in module.modules() if _is_norm(child)]
            chosen, how, lacking = _inside(norms, usable), "norms", "norms with parameters"
        case TrainBias():
            chosen = {name: parameter for name, parameter in usable.items() if _is_bias(name)}
            how, lacking = "biases", "biases"
        case _:
            raise AssertionError(f"no such mode: {settings}")
    if not chosen:
        raise AssemblyError(f"the part has no {lacking}; leave it out")
    return Selection(chosen, how)


def _unused(module: nn.Module) -> frozenset[str]:
    return module.unused_parameters if isinstance(module, VisionEncoder) else frozenset()


def _usable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that could train."""
    unused = _unused(module)
    return {name: parameter for name, parameter in module.named_parameters() if name not in unused and parameter.numel()}


def blocks_of(part: str, module: nn.Module, usable: Mapping[str, nn.Parameter]) -> list[nn.Module]:
    """The blocks of a part, in order, of which anything is used.

    Raises `AssemblyError` for a part that names none.
    """
    blocks: Sequence[nn.Module]
    if isinstance(module, VisionEncoder):
        blocks = module.encoder_blocks
    elif isinstance(module, LanguageModel):
        blocks = module.decoder_layers
    else:
        raise AssemblyError(f"a {part} has no blocks to count from the end: use `mode: full`")
    return [block for block in blocks if _inside([block], usable)]


def _last_blocks(part: str, module: nn.Module, layers: int, usable: Mapping[str, nn.Parameter]) -> tuple[list[nn.Module], int]:
    """The last so many blocks, and how many there are."""
    blocks = blocks_of(part, module, usable)
    if layers > len(blocks):
        raise AssemblyError(f"`layers` (={layers}) must be at most the number of blocks that the part uses (={len(blocks)})")
    return blocks[-layers:], len(blocks)


def _inside(modules: Sequence[nn.Module], usable: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those of the parameters that belong to these modules, whichever name they have there."""
    found = {id(parameter) for module in modules for parameter in module.parameters()}
    return {name: parameter for name, parameter in usable.items() if id(parameter) in found}


def _is_norm(module: nn.Module) -> bool:
    """Whether a module scales its input by one vector and may shift it by another: a norm, of torch or a family's own."""
    own = dict(module.named_parameters())
    shapes = {tuple(parameter.shape) for parameter in own.values()}
    only_these = "weight" in own and own.keys() <= {"weight", "bias"}
    return only_these and len(shapes) == 1 and len(next(iter(shapes))) == 1 and not isinstance(module, nn.PReLU)


def _is_bias(name: str) -> bool:
    """Whether a parameter is a bias by torch's own convention: `bias`, `in_proj_bias`, `q_bias`."""
    return name.rpartition(".")[2] == "bias" or name.endswith("_bias")


def idle_parameters(part: nn.Module) -> frozenset[str]:
    """Names of parameters that may go without a gradient, as the components of a part name them."""
    if isinstance(part, VisionEncoder | LanguageModel):
        return part.idle_parameters
    return frozenset(
        f"{number}.{name}"
        for number, connector in part.named_children()
        if isinstance(connector, Connector | LayersConnector)
        for name in connector.idle_parameters
    )


def check_gradients(states: Sequence[PartState], idle: Mapping[str, frozenset[str]] | None = None) -> None:
    """After the first backward pass: every tensor that trains must have a gradient, and no frozen one may.

    `idle` are, by part, the names of those that may go without. Raises `AssemblyError` naming the tensors.
    """
    reasons = []
    for state in states:
        reasons += [
            f"`{state.name}.{name}` trains, but got no gradient{'' if p.requires_grad else ': its `requires_grad` is off'}"
            for name, p in state.trained.items()
            if p.grad is None and name not in (idle or {}).get(state.name, ())
        ]
        reasons += [
            f"`{state.name}.{name}` is frozen, but got a gradient" for name, p in state.frozen.items() if p.grad is not None
        ]
    if reasons:
        shown = reasons[:10] + ([f"and {len(reasons) - 10} more"] if len(reasons) > 10 else [])
        raise AssemblyError("the first step does not train what the recipe says", shown)
