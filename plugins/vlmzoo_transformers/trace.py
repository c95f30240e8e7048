"""Find the parts of a model by running it once, instead of knowing the attribute paths of every family.

The list of layers lives at six different paths across the families of transformers, and the longest `ModuleList` may be one
of experts. What identifies the layers is what they do: one forward calls each of them once, in order, hidden states in and
hidden states of the same shape out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmzoo_registry import PluginError


@dataclass(frozen=True)
class Call:
    """One call of a submodule: its name and the shapes of its first tensor in and out (None where there is none)."""

    name: str
    input: tuple[int, ...] | None
    output: tuple[int, ...] | None


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor among the arguments or the outputs of a module."""
    if isinstance(values, Tensor):
        return values
    if isinstance(values, dict):
        values = tuple(values.values())
    if isinstance(values, tuple | list):
        return next((value for value in values if isinstance(value, Tensor)), None)
    return None


def record_calls(model: nn.Module, forward: Callable[[], Any]) -> list[Call]:
    """Run `forward` and list the calls of every submodule of `model`, in the order in which they ended."""
    calls: list[Call] = []
    handles = [
        module.register_forward_hook(partial(_record, calls, name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _record(
    calls: list[Call], name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> None:
    entered = first_tensor(args) if args else kwargs.get("hidden_states")
    left = first_tensor(output)
    calls.append(Call(name, None if entered is None else tuple(entered.shape), None if left is None else tuple(left.shape)))


def find_layers(model: nn.Module, calls: list[Call], width: int) -> str | None:
    """The name of the `ModuleList` whose children were called once each, in order, hidden states to hidden states.

    Lists inside the layers of another candidate are not considered. Returns None where there is no such list, or more than one.
    """
    candidates = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        children = [f"{name}.{index}" for index in range(len(module))]
        made = [call for call in calls if call.name in set(children)]
        in_order = [call.name for call in made] == children
        if in_order and all(call.input == call.output and call.input and call.input[-1] == width for call in made):
            candidates.append(name)
    return _outermost(candidates)


def find_list(model: nn.Module, length: int) -> str | None:
    """The name of the only outermost `ModuleList` of this length; None where there is none, or more than one."""
    return _outermost(
        [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == length]
    )


def _outermost(names: list[str]) -> str | None:
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names if other != name)]
    return outer[0] if len(outer) == 1 else None


def find_backbone(model: PreTrainedModel) -> nn.Module:
    """The model without its head: transformers' own `base_model`, or the only pretrained model inside where that is the whole.

    Raises `PluginError` where there is neither.
    """
    if model.base_model is not model:
        return model.base_model
    inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if len(inside) != 1:
        raise PluginError(f"`{model.config.model_type}`: no part of it gives hidden states without logits")
    return inside[0]


def run_backbone(model: PreTrainedModel, backbone: nn.Module) -> tuple[Tensor, int]:
    """The hidden states of the probe's embeddings, and the number that the family gives to the first position.

    That number is the first of the consecutive ones that some embedding is asked for (RoBERTa counts its table from behind the
    padding's row); 0 where no embedding is (rotary positions).
    """
    asked: list[int] = []

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        numbers = first_tensor(args)
        if numbers is not None and numbers.dtype == torch.long and numbers.numel() == 2:
            first, second = numbers.flatten().tolist()
            asked.extend([first] if second == first + 1 else [])

    tables = [module for module in backbone.modules() if type(module) is nn.Embedding]
    handles = [table.register_forward_pre_hook(record) for table in tables]
    try:
        with torch.no_grad():
            hidden = backbone(inputs_embeds=probe(model), use_cache=False).last_hidden_state
    finally:
        for handle in handles:
            handle.remove()
    return hidden, asked[0] if asked else 0


def probe(model: PreTrainedModel, tokens: int = 2) -> Tensor:
    """Random embeddings [1, tokens, d], the same every time: zeros would hide a scale, and the global generator is not ours."""
    width = model.get_input_embeddings().weight.shape[1]
    drawn = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0), device="cpu")
    return drawn.to(device=model.device, dtype=model.dtype)


def on_meta(module: nn.Module) -> bool:
    """Whether the parameters carry no values."""
    return next(module.parameters()).device == torch.device("meta")
