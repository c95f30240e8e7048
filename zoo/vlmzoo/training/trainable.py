"""What trains: freezing, the optimizer's groups and the report come from one object per part, so they cannot disagree."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from vlmzoo.config import TrainPart
from vlmzoo.model.vlm import PARTS, VLM
from vlmzoo_registry import AssemblyError


@dataclass(frozen=True)
class PartState:
    """One part of a model in one stage: frozen where `settings` is None."""

    name: str
    settings: TrainPart | None
    trained: dict[str, nn.Parameter]
    frozen: dict[str, nn.Parameter]

    @property
    def mode(self) -> str:
        """What the table of parts calls it."""
        return "frozen" if self.settings is None else self.settings.mode


def set_trainable(vlm: VLM, train: Mapping[str, TrainPart]) -> tuple[PartState, ...]:
    """Freeze what the stage does not name, and let the rest train; puts the model into training mode.

    Parameters that no output depends on (an encoder's pooler), or that have no elements (DINOv3's registers where there are
    none), stay frozen in every mode.

    Raises `AssemblyError` where a part that is to train has nothing that could.
    """
    states, reasons = [], []
    for name in PARTS:
        settings = train.get(name)
        unused = vlm.vision.unused_parameters if name == "vision" else frozenset()
        parameters = dict(vlm.parts[name].named_parameters())
        trained = {} if settings is None else {key: p for key, p in parameters.items() if key not in unused and p.numel()}
        frozen = {key: value for key, value in parameters.items() if key not in trained}
        if settings is not None and not trained:
            reasons.append(f"`train.{name}`: the part has no parameters that train; leave it out")
        for parameter in frozen.values():
            parameter.requires_grad_(False)
        for parameter in trained.values():
            parameter.requires_grad_(True)
        states.append(PartState(name, settings, trained, frozen))
    if reasons:
        raise AssemblyError("the stage cannot train what it names", reasons)
    vlm.train()
    return tuple(states)


def check_gradients(states: tuple[PartState, ...]) -> None:
    """After the first backward pass: every tensor that trains must have a gradient, and no frozen one may.

    Raises `AssemblyError` naming the tensors: a run in which they stand still unseen is worth nothing.
    """
    reasons = []
    for state in states:
        reasons += [f"`{state.name}.{name}` trains, but got no gradient" for name, p in state.trained.items() if p.grad is None]
        reasons += [
            f"`{state.name}.{name}` is frozen, but got a gradient" for name, p in state.frozen.items() if p.grad is not None
        ]
    if reasons:
        shown = reasons[:10] + ([f"and {len(reasons) - 10} more"] if len(reasons) > 10 else [])
        raise AssemblyError("the first step does not train what the recipe says", shown)
