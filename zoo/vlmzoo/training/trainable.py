"""What trains: freezing, the optimizer's groups and the report come from one object per part, so they cannot disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from vlmzoo.adapters import Adapter, adapter_parameters, merge_adapters
from vlmzoo.config import TrainLora, TrainPart
from vlmzoo.model.vlm import PARTS, VLM
from vlmzoo.shortened import shortened
from vlmzoo.training.low_rank import check_adapter, put_adapters
from vlmzoo.training.selection import Selection, select
from vlmzoo_registry import AssemblyError, Connector, LanguageModel, LayersConnector, VisionEncoder


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

    @property
    def changes_base(self) -> bool:
        """Whether tensors of the part itself are stepped, and not adapters beside them."""
        return not (self.settings is None or isinstance(self.settings, TrainLora))


def set_trainable(vlm: VLM, train: Mapping[str, TrainPart]) -> tuple[PartState, ...]:
    """Freeze what the stage does not name, and let the rest train; puts the model into training mode.

    Adapters are put on, kept, or merged as the modes ask for. Raises `AssemblyError` with every part that is to train and has
    nothing that could, or not what its mode asks for; the model is then as it was.
    """
    reasons = refusals(vlm.parts, train, vlm.adapters)
    if reasons:
        raise AssemblyError("the stage cannot train what it names", reasons)
    states = []
    for name in PARTS:
        module = vlm.parts[name]
        chosen = settle(name, module, train.get(name), vlm.adapters)
        frozen = {key: value for key, value in module.named_parameters() if key not in chosen.parameters}
        states.append(PartState(name, train.get(name), chosen.parameters, frozen, chosen.how))
    for state in states:
        for parameter in state.frozen.values():
            parameter.requires_grad_(False)
        for parameter in state.trained.values():
            parameter.requires_grad_(True)
    vlm.train()
    return tuple(states)


def refusals(parts: Mapping[str, nn.Module], train: Mapping[str, TrainPart], adapters: Mapping[str, Adapter]) -> list[str]:
    """Every reason why these parts cannot train like this; changes nothing."""
    reasons = []
    for name, settings in train.items():
        try:
            if isinstance(settings, TrainLora):
                check_adapter(name, parts[name], settings, adapters.get(name))
            else:
                select(name, parts[name], settings)
        except AssemblyError as error:
            reasons += [f"`train.{name}`: {reason}" for reason in error.reasons or (error.message,)]
    return reasons


def settle(part: str, module: nn.Module, settings: TrainPart | None, adapters: dict[str, Adapter]) -> Selection:
    """Put adapters on a part, or merge those it has, as its mode asks for, and say what of it then trains.

    `adapters` are those of all parts, and are brought up to date.
    """
    adapter = adapters.get(part)
    if settings is None:
        return Selection({}, "frozen" if adapter is None else f"frozen, with {adapter.describe()}")
    if isinstance(settings, TrainLora):
        adapters[part] = adapter or put_adapters(part, module, settings)
        return Selection(dict(adapter_parameters(module)), adapters[part].describe())
    if adapter is None:
        return select(part, module, settings)
    merge_adapters(module)
    del adapters[part]
    chosen = select(part, module, settings)
    return Selection(chosen.parameters, f"{chosen.how}, adapters merged")


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
        raise AssemblyError("the first step does not train what the recipe says", shortened(reasons))
