"""What a language model does between its last hidden state and its logits, found by running it on random embeddings.

Gemma 2 caps its logits softly, Granite divides them, MiniCPM divides what enters the output layer, BERT has a layer of its
own before it. A loss that only applied the output layer would train another model; so one forward tells which modules stand
between the two, and in a second the last of them puts out a ramp, and what comes of it says which function is applied.
An unknown function is refused, never ignored.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmzoo_registry import PluginError
from vlmzoo_transformers.trace import first_tensor

_LARGE = 1e6  # far beyond any logit: a soft cap shows its bound there, a scale its slope


@dataclass(frozen=True)
class LogitTransform:
    """`logits = cap * tanh(scale * x / cap)`, or `scale * x` where there is no cap."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """Apply it to the output layer's result."""
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@dataclass(frozen=True)
class HeadPlan:
    """The way from hidden states to logits: times `entry`, through the modules of these names, through the transform."""

    modules: tuple[str, ...]
    entry: float = 1.0
    transform: LogitTransform = LogitTransform()

    def head(self, model: nn.Module) -> nn.Module:
        """The module that goes this way: the output layer itself where it is all."""
        modules = [model.get_submodule(name) for name in self.modules]
        if len(modules) == 1 and self.entry == 1 and self.transform == LogitTransform():
            return modules[0]
        return LogitHead(modules, self.entry, self.transform)


class LogitHead(nn.Module):
    """The modules before the logits, with the scale of what enters them and the transform of what leaves them."""

    def __init__(self, modules: Iterable[nn.Module], entry: float, transform: LogitTransform) -> None:
        super().__init__()
        self.layers = nn.ModuleList(modules)
        self.entry = entry
        self.transform = transform

    def forward(self, hidden: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows V"]:
        """Logits of hidden states."""
        if self.entry != 1:
            hidden = hidden * self.entry
        for layer in self.layers:
            hidden = layer(hidden)
        return self.transform(hidden)


def plain_head(model: PreTrainedModel) -> HeadPlan:
    """The output layer alone: all that can be said of a model without values.

    Raises `PluginError` where there is none.
    """
    linear = model.get_output_embeddings()
    if linear is None:
        raise PluginError(
            f"`{model.config.model_type}` has no output layer (`get_output_embeddings()` is None), so it gives no logits"
        )
    return HeadPlan((next(name for name, module in model.named_modules() if module is linear),))


def find_head(model: PreTrainedModel, backbone: nn.Module, hidden: Tensor, run: Callable[[], Tensor]) -> HeadPlan:
    """The way that `model` takes from the hidden states that its backbone gives to its logits; `run` gives the logits.

    Raises `PluginError` where what enters the output layer is not made of the backbone's last hidden state by modules, or
    where what follows it is neither a scale nor a soft cap.
    """
    (linear,) = plain_head(model).modules
    modules, entry = _find_modules(model, backbone, linear, hidden, run)
    return HeadPlan(modules, entry, _find_transform(model, model.get_submodule(modules[-1]), run))


def _find_modules(
    model: PreTrainedModel, backbone: nn.Module, linear: str, hidden: Tensor, run: Callable[[], Tensor]
) -> tuple[tuple[str, ...], float]:
    """The outermost modules between the backbone's last hidden state and the logits, and the factor before the first."""
    calls: list[tuple[str, Tensor, Tensor]] = []

    within = {id(module) for module in backbone.modules()}
    outside = [(name, module) for name, module in model.named_modules() if name and id(module) not in within]
    handles = [module.register_forward_hook(partial(_record, calls, name)) for name, module in outside]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()

    names: list[str] = []
    current, entry = hidden, 1.0
    while not names or not f"{linear}.".startswith(f"{names[-1]}."):
        waiting = [call for call in calls if call[0] not in names]
        if not names:
            waiting, entry = _entered_by_multiple(waiting, current)
        else:
            waiting = [call for call in waiting if torch.equal(call[1], current)]
        # A module's parts end before it does: of those that take the same, the outermost does the whole.
        outermost = min(waiting, key=lambda call: call[0].count("."), default=None)
        if outermost is None:
            raise PluginError(
                f"`{model.config.model_type}`: its output layer `{linear}` does not get the backbone's `last_hidden_state` "
                "through a chain of modules, which the loss relies on"
            )
        names.append(outermost[0])
        current = outermost[2]
    return tuple(names), entry


def _record(calls: list[tuple[str, Tensor, Tensor]], name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    entered, left = first_tensor(args), first_tensor(output)
    if entered is not None and left is not None:
        calls.append((name, entered, left))


def _entered_by_multiple(
    calls: list[tuple[str, Tensor, Tensor]], hidden: Tensor
) -> tuple[list[tuple[str, Tensor, Tensor]], float]:
    """The calls that take the hidden states themselves, or else those that take a multiple of them, and the factor."""
    same = [call for call in calls if torch.equal(call[1], hidden)]
    if same:
        return same, 1.0
    for call in calls:
        entered, values = call[1].double(), hidden.double()
        if entered.shape == values.shape:
            factor = float((entered * values).sum() / (values * values).sum())
            if torch.allclose(entered, factor * values, rtol=_tolerance(hidden), atol=_tolerance(hidden)):
                return [call], _shortest(factor, hidden, call[1])
    return [], 1.0


def _shortest(factor: float, hidden: Tensor, entered: Tensor) -> float:
    """The shortest number near `factor` that gives the same bits: the weights it was measured with must not be seen in it."""
    for digits in range(1, 10):
        multiplied, divided = float(f"{factor:.{digits}g}"), float(f"{1 / factor:.{digits}g}")
        if torch.equal(hidden * multiplied, entered):
            return multiplied
        if torch.equal(hidden / divided, entered):
            return 1 / divided
    return factor


def _find_transform(model: PreTrainedModel, module: nn.Module, run: Callable[[], Tensor]) -> LogitTransform:
    """What is done to the output of the last module: it puts out a ramp once."""
    ramp: list[Tensor] = []

    def replace(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        values = torch.linspace(-50, 50, output.numel(), dtype=torch.float32).reshape(output.shape)
        values[0, 0, :2] = torch.tensor([_LARGE, 1.0])
        ramp.append(values.to(output.dtype))
        return ramp[0].to(output.device)

    handle = module.register_forward_hook(replace)
    try:
        with torch.no_grad():
            logits = run().float().cpu()
    finally:
        handle.remove()
    values = ramp[0].float()
    large, one = logits[0, 0, 0].item(), logits[0, 0, 1].item()
    candidates = [LogitTransform(), LogitTransform(scale=large / _LARGE), LogitTransform(cap=large)]
    # A scale before a soft cap shows at small numbers: tanh is its argument there.
    if 0 < large < _LARGE / 10:
        candidates.append(LogitTransform(scale=large * torch.atanh(torch.tensor(one / large)).item(), cap=large))
    tolerance = _tolerance(ramp[0])
    for candidate in candidates:
        if candidate.cap != 0 and torch.allclose(candidate(values), logits, rtol=tolerance, atol=tolerance):
            return candidate
    raise PluginError(
        f"`{model.config.model_type}` turns the output layer's result into logits by a function that is neither a scale nor a "
        f"soft cap (1 becomes {one:g}, {_LARGE:g} becomes {large:g}); the loss would be another model's"
    )


def _tolerance(values: Tensor) -> float:
    return 1e-5 if values.dtype == torch.float32 else 2e-2
