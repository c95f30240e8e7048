"""The audit: what was to train has got gradients and moved, and what is frozen has not, or the run stops and names it.

A run in which a tensor stands still unseen, or is moved by something else than the optimizer, is worth nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.table import Table
from torch import Tensor, nn

from vlmzoo.config import TrainFull
from vlmzoo.model.vlm import VLM, frozen_modules
from vlmzoo.shortened import shortened
from vlmzoo.training.fingerprint import fingerprint
from vlmzoo.training.optimization import has_master
from vlmzoo.training.trainable import PartState, check_gradients, idle_parameters
from vlmzoo_registry import AssemblyError, LayersConnector

STEPS = 5
"""How many optimizer steps a tensor has in which it could have moved."""

_ROUNDING = 4  # a step of so many times the distance between two numbers is not rounded away
_EPSILON = 1e-8  # AdamW's: what a gradient much smaller than this moves a parameter by is only a part of the rate

Count = Annotated[int, Field(ge=0)]


class AuditState(BaseModel):
    """What the audit has seen; plain data, so that a run that is taken up goes on with it.

    `steps` are the optimizer steps so far, `chances` those in which a part could have moved; `gradient` and `moved` say in
    which step (from 0) a tensor had its first gradient other than 0, and was first seen to have moved; `before` are the
    fingerprints of tensors that train and have not moved yet, `frozen` those of all that must not.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    steps: Count = 0
    chances: dict[str, Count] = {}
    gradient: dict[str, Count] = {}
    moved: dict[str, Count] = {}
    before: dict[str, int] = {}
    frozen: dict[str, int] = {}


class Audit:
    """Watches the tensors of a stage; the training loop calls `after_backward` and `after_step` in each step, then `finish`.

    A tensor that trains must have had a gradient other than 0, and have moved, within the first `STEPS` optimizer steps in
    which it could: with a learning rate above 0, for image parts a batch with images, and a rate that is not rounded away.
    What starts at 0 only delays that: the gates of cross-attention and the second matrices of adapters move in the first step
    and let the gradients of the others through in the next. Parameters that a component names as `idle_parameters` are not
    asked for. Of 16-bit parameters it is the float32 master that must have moved.

    Tensors are compared by fingerprints of their bits: nothing is copied. Buffers count where a checkpoint keeps them.
    """

    def __init__(
        self,
        vlm: VLM,
        states: Sequence[PartState],
        optimizer: torch.optim.Optimizer,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self._vlm, self._states, self._optimizer = vlm, tuple(states), optimizer
        idle = {state.name: idle_parameters(vlm.parts[state.name]) for state in states}
        self._asked = {
            f"{state.name}.{name}": (state.name, parameter)
            for state in states
            for name, parameter in state.trained.items()
            if name not in idle[state.name]
        }
        self._has_images = False
        self._checked = False
        if saved:
            self._seen = AuditState.model_validate(saved)
            self._checked = self._seen.steps > 0
        else:
            self._seen = AuditState(
                before={name: fingerprint(_stepped_now(parameter)) for name, (_, parameter) in self._asked.items()},
                frozen={name: fingerprint(tensor) for name, tensor in self._still().items()},
            )

    def state(self) -> dict[str, Any]:
        """What has been seen so far, as plain data: `saved` of the audit that goes on."""
        return self._seen.model_dump()

    def after_backward(self, step: int, *, has_images: bool) -> None:
        """To be called when all gradients of a global batch are there, and before any is filled in.

        Raises `AssemblyError` in the first step with images, where a tensor that trains has no gradient or a frozen one has.
        """
        self._has_images = has_images
        if has_images and not self._checked:
            check_gradients(self._states, idle={name: idle_parameters(part) for name, part in self._vlm.parts.items()})
            self._checked = True

    def after_step(self, step: int, rates: Mapping[str, float]) -> None:
        """To be called between an optimizer step and the clearing of the gradients; `rates` are the learning rates by part.

        Raises `AssemblyError` with every tensor that had its chances and stands still, and every frozen one that has moved.
        """
        seen = self._seen
        seen.steps += 1
        for state in self._states:
            if state.trained and rates[state.name] > 0 and (self._has_images or state.name == "language"):
                seen.chances[state.name] = seen.chances.get(state.name, 0) + 1
        reasons = []
        for name in list(seen.before):
            part, parameter = self._asked[name]
            if parameter.grad is not None and bool(parameter.grad.any()):
                seen.gradient.setdefault(name, step)
            if fingerprint(self._stepped(parameter)) != seen.before[name]:
                seen.moved.setdefault(name, step)
                if name in seen.gradient:
                    del seen.before[name]
                    continue
            if seen.chances.get(part, 0) < STEPS:
                continue
            if name not in seen.gradient:
                reasons.append(f"`{name}` trains, but its gradient has been 0 in all of them{self._hint(part)}")
                del seen.before[name]
            elif _could_move(parameter, self._stepped(parameter), rates[part]):
                reasons.append(f"`{name}` trains and has gradients, but has not moved: the optimizer does not step it")
        if seen.steps == STEPS:
            reasons += self._moved()
        if reasons:
            raise AssemblyError(
                f"after {seen.steps} optimizer steps the run does not train what the recipe says. A component whose parameters "
                "may go without a gradient (experts that no token chose) names them in `idle_parameters`",
                shortened(reasons),
            )

    def finish(self) -> None:
        """To be called after the last step. Raises `AssemblyError` with every frozen tensor that has moved."""
        reasons = self._moved()
        if reasons:
            raise AssemblyError(
                f"after {self._seen.steps} optimizer steps, frozen tensors are not as they were", shortened(reasons)
            )

    def rows(self) -> list[dict[str, Any]]:
        """What was found, part by part, as plain data.

        `tensors` are those that train, `moved` those of them that were seen to move, the last in step `by_step` (from 0);
        `waiting` are the names of those that were not asked for or had too few steps to; `frozen` counts those that must not
        move, buffers included.
        """
        rows = []
        for state in self._states:
            names = [f"{state.name}.{name}" for name in state.trained]
            moved = [self._seen.moved[name] for name in names if name in self._seen.moved]
            rows.append(
                {
                    "part": state.name,
                    "trains": state.how,
                    "tensors": len(names),
                    "moved": len(moved),
                    "by_step": max(moved, default=None),
                    "waiting": [name for name in names if name not in self._seen.moved],
                    "frozen": sum(name.startswith(f"{state.name}.") for name in self._seen.frozen),
                }
            )
        return rows

    def table(self) -> Table:
        """The same to look at."""
        table = Table(title="What moved", title_justify="left", box=None, pad_edge=False)
        for column in ("part", "trains", "tensors moved", "by step", "frozen tensors, unmoved"):
            table.add_column(column, justify="left" if column in ("part", "trains") else "right", no_wrap=True)
        for row in self.rows():
            moved = f"{row['moved']} of {row['tensors']}" if row["tensors"] else "-"
            by_step = "-" if row["by_step"] is None else str(row["by_step"])
            table.add_row(row["part"], row["trains"], moved, by_step, str(row["frozen"]))
        return table

    def _still(self) -> dict[str, Tensor]:
        """What must not move: frozen parameters, and the saved buffers of modules in which nothing trains."""
        tensors: dict[str, Tensor] = {}
        for state in self._states:
            part = self._vlm.parts[state.name]
            tensors |= {f"{state.name}.{name}": parameter for name, parameter in state.frozen.items()}
            saved = part.state_dict(keep_vars=True).keys()
            inside = {id(buffer) for module in frozen_modules(part) for buffer in module.buffers()}
            tensors |= {
                f"{state.name}.{name}": buffer
                for name, buffer in part.named_buffers()
                if name in saved and id(buffer) in inside
            }
        return tensors

    def _moved(self) -> list[str]:
        here = self._still()
        reasons = [f"`{name}` is frozen, but no longer there" for name in self._seen.frozen.keys() - here.keys()]
        reasons += [
            f"`{name}` is frozen, but has moved: something other than the optimizer writes it (a module in training mode, a "
            "tensor that is shared with one that trains)"
            for name, tensor in here.items()
            if fingerprint(tensor) != self._seen.frozen.get(name)
        ]
        return reasons

    def _stepped(self, parameter: nn.Parameter) -> Tensor:
        """The tensor that the optimizer steps."""
        master: Tensor | None = self._optimizer.state.get(parameter, {}).get("master")
        return _stepped_now(parameter) if master is None else master

    def _hint(self, part: str) -> str:
        """Gates that are closed for good, where that may be why."""
        closed = [
            name
            for module in (self._vlm.connector if part != "language" else ())
            if isinstance(module, LayersConnector)
            for name, parameter in self._vlm.connector.named_parameters()
            if any(parameter is gate for gate in module.gates) and not parameter.requires_grad and not bool(parameter.any())
        ]
        if not closed:
            (settings,) = [state.settings for state in self._states if state.name == part]
            whole = isinstance(settings, TrainFull)
            return "" if whole else " (what it acts through may be 0 and frozen: a residual norm that starts at 0, a gate)"
        return f" (gates are 0 and frozen, so nothing behind them can learn: `connector.{closed[0]}`, {len(closed)} in all)"


def _stepped_now(parameter: nn.Parameter) -> Tensor:
    """What the optimizer steps, before it has made masters."""
    return parameter.detach().float() if has_master(parameter) else parameter.detach()


def _could_move(parameter: nn.Parameter, stepped: Tensor, rate: float) -> bool:
    """Whether AdamW's step at this rate is more than what rounding takes away, at the smallest number of the tensor."""
    largest = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
    step = rate * largest / (largest + _EPSILON)
    return step > _ROUNDING * torch.finfo(stepped.dtype).eps * float(stepped.abs().min())
