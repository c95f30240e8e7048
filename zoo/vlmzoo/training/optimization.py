"""AdamW over the parts that train, each with its own learning rate, warm-up and decay; rates follow optimizer steps.

Parameters kept in 16 bits are stepped as float32 copies: at usual rates a step is smaller than half the distance between two
bf16 numbers, and would be rounded away.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlmzoo.shortened import shortened
from vlmzoo.training.trainable import PartState
from vlmzoo_registry import CheckpointError
from vlmzoo_registry.compat.torch import adamw

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101) as torch computes it, with float32 masters of parameters that are kept in 16 bits.

    The state of a parameter is `step`, `exp_avg`, `exp_avg_sq`, and for one of 16 bits its `master`; all but `step` have the
    parameter's shape, and all are float32 there. After a step such a parameter is its master, rounded.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = fresh_state(parameter)
            plain = [parameter for parameter in parameters if not has_master(parameter)]
            self._update(group, plain, [parameter.grad for parameter in plain], [self.state[parameter] for parameter in plain])
            for parameter in parameters:
                if has_master(parameter):
                    # One after the other: the gradients of a whole part in float32 would take as much room again.
                    state = self.state[parameter]
                    self._update(group, [state["master"]], [parameter.grad.float()], [state])
                    parameter.copy_(state["master"])

    def _update(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]]
    ) -> None:
        adamw(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=_EPSILON,
            maximize=False,
        )


def has_master(parameter: Tensor) -> bool:
    """Whether a parameter is too coarse to be stepped itself."""
    return parameter.element_size() < 4


def fresh_state(parameter: Tensor) -> dict[str, Tensor]:
    """What `MasterAdamW` keeps of a parameter before its first step."""
    dtype = torch.float32 if has_master(parameter) else parameter.dtype
    zeros = [torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format) for _ in range(2)]
    state = {"step": torch.tensor(0.0), "exp_avg": zeros[0], "exp_avg_sq": zeros[1]}
    if has_master(parameter):
        state["master"] = parameter.detach().to(torch.float32, copy=True)
    return state


def rate_factor(step: int, steps: int, warmup: float, schedule: Literal["cosine", "constant"]) -> float:
    """The share of the highest rate at optimizer step `step` (from 0) of `steps`.

    It rises linearly over the first `warmup` (a fraction of the steps) to 1, which it reaches at the last of these; then it
    stays, or falls along half a cosine to 0 after the last step.
    """
    rising = math.ceil(warmup * steps - 1e-9)  # 0.07 * 100 is a little more than 7
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def make_optimizer(states: Sequence[PartState]) -> MasterAdamW:
    """One group per part and kind: vectors (biases, norms, gates) do not decay."""
    groups = []
    for state in states:
        if state.settings is None:
            continue
        for decays in (True, False):
            parameters = [p for p in state.trained.values() if (p.ndim > 1) == decays]
            if parameters:
                groups.append(
                    {
                        "params": parameters,
                        "lr": state.settings.lr,
                        "weight_decay": state.settings.weight_decay if decays else 0.0,
                        "part": state.name,
                    }
                )
    return MasterAdamW(groups)


def set_rates(
    optimizer: torch.optim.Optimizer,
    states: Sequence[PartState],
    step: int,
    steps: int,
    warmup: float,
    schedule: Literal["cosine", "constant"],
) -> dict[str, float]:
    """Set the learning rates of this step; returns them by part."""
    rates = {}
    for state in states:
        if state.settings is not None:
            share = warmup if state.settings.warmup is None else state.settings.warmup
            rates[state.name] = state.settings.lr * rate_factor(step, steps, share, schedule)
    for group in optimizer.param_groups:
        group["lr"] = rates[group["part"]]
    return rates


def optimizer_tensors(optimizer: torch.optim.Optimizer, states: Sequence[PartState]) -> dict[str, Tensor]:
    """The optimizer's state by name, `<part>.<parameter>.<exp_avg | exp_avg_sq | step | master>`: what a resumed run needs.

    `optimizer` is one that `make_optimizer` made of these states, or accelerate's wrapper around it.
    """
    return {
        f"{name}.{key}": tensor
        for name, parameter in _trained(states).items()
        for key, tensor in (optimizer.state.get(parameter) or fresh_state(parameter)).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, states: Sequence[PartState], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, in copies of the optimizer's own; the model must have its weights of then.

    Raises `CheckpointError` with every tensor that is missing, surplus or of another shape or type, and with every 16-bit
    parameter that is not its master, rounded: the state then belongs to other weights. Nothing is changed before that.
    """
    trained = _trained(states)
    fresh = {name: fresh_state(parameter) for name, parameter in trained.items()}
    wanted = {f"{name}.{key}": tensor for name, state in fresh.items() for key, tensor in state.items()}
    reasons = [f"{name}: not among the saved ones" for name in wanted.keys() - tensors.keys()]
    reasons += [f"{name}: saved, but nothing here has a use for it" for name in tensors.keys() - wanted.keys()]
    for name in wanted.keys() & tensors.keys():
        there, here = tensors[name], wanted[name]
        if (there.shape, there.dtype) != (here.shape, here.dtype):
            reasons.append(f"{name}: {_described(there)} saved, {_described(here)} here")
    for name, parameter in trained.items():
        master = tensors.get(f"{name}.master") if has_master(parameter) else None
        if (
            master is not None
            and master.shape == parameter.shape
            and not torch.equal(master.to(parameter.device, parameter.dtype), parameter.detach())
        ):
            reasons.append(f"{name}.master: rounded, it is not the parameter as it is here")
    if reasons:
        raise CheckpointError("the optimizer's state does not belong to this model and stage", shortened(sorted(reasons)))
    for name, parameter in trained.items():
        for key, tensor in fresh[name].items():
            tensor.copy_(tensors[f"{name}.{key}"])
        optimizer.state[parameter] = fresh[name]


def _trained(states: Sequence[PartState]) -> dict[str, nn.Parameter]:
    return {f"{state.name}.{name}": parameter for state in states for name, parameter in state.trained.items()}


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
