"""Low-rank adapters on a part (LoRA, arXiv:2106.09685), through peft: put in, read out in peft's own format, merged.

A part with adapters keeps its own tensors under their own names (`vlmzoo.model.tensors`); what peft adds lies beside them.
"""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from torch import nn
from transformers import Conv1D

from vlmzoo_registry import CheckpointError
from vlmzoo_registry.compat.peft import BaseTunerLayer, LoraLayer
from vlmzoo_registry.compat.torch import share_children

_NAME = "default"  # peft's name for the adapter of a model that has one


@dataclass(frozen=True)
class Adapter:
    """The adapters of one part: peft's description of them, and the names of the layers they are on."""

    config: LoraConfig
    layers: frozenset[str]

    def describe(self) -> str:
        """In words, for tables and messages."""
        return f"lora, rank {self.config.r} on {len(self.layers)} layers"

    def dump(self) -> dict[str, Any]:
        """What `adapter_config.json` holds: plain data, the same for the same adapters."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in self.config.to_dict().items()}


def linear_layers(part: nn.Module, within: Collection[nn.Module]) -> list[str]:
    """The names of the linear layers in some modules of a part, whether they have adapters already or not.

    The output projection of torch's `MultiheadAttention` is none: its weight is read, and it is never called, so that an
    adapter on it would do nothing.
    """
    inside = {id(module) for outer in within for module in outer.modules()}
    unread = {id(module.out_proj) for module in part.modules() if isinstance(module, nn.MultiheadAttention)}
    wrapped = {id(module.get_base_layer()) for module in part.modules() if isinstance(module, LoraLayer)}
    own = {id(inner) for module in part.modules() if isinstance(module, LoraLayer) for inner in _added(module)}
    return [
        name
        for name, module in part.named_modules()
        if id(module) in inside - unread - wrapped - own
        and isinstance(module.get_base_layer() if isinstance(module, LoraLayer) else module, nn.Linear | Conv1D)
    ]


def add_adapters(part: nn.Module, config: LoraConfig, layers: Collection[str]) -> Adapter:
    """Put an adapter on each of these layers: the first matrix at random, the second 0, so that nothing changes yet.

    The adapters are float32 whatever the part is, as peft's own `get_peft_model` makes them. What of the part wants a gradient
    is left as it was.
    """
    wants = {id(parameter): parameter.requires_grad for parameter in part.parameters()}
    # peft reads a `config` that it takes for transformers', and leaves its own on the module: a shell with the same children
    # keeps both from the part.
    shell = nn.Module()
    share_children(shell, part)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft sets what fits each layer, and says so
        inject_adapter_in_model(config, shell, _NAME)
    found = {name: module for name, module in part.named_modules() if isinstance(module, LoraLayer)}
    assert found.keys() == set(layers), f"peft put adapters on {sorted(found.keys() ^ set(layers))} too many or too few"
    for name, layer in found.items():
        module = part.get_submodule(name)
        module.train(layer.get_base_layer().training)  # peft makes its dropout in training mode, whatever that is
        for inner in _added(module):
            inner.float()
    for parameter in part.parameters():
        parameter.requires_grad_(wants.get(id(parameter), True))
    return Adapter(config, frozenset(layers))


def adapter_parameters(part: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a part's adapters, by their names in the part."""
    return {
        f"{name}.{kind}.{_NAME}.{own}": parameter
        for name, module in part.named_modules()
        if isinstance(module, LoraLayer)
        for kind, by_adapter in (("lora_A", module.lora_A), ("lora_B", module.lora_B))
        if _NAME in by_adapter
        for own, parameter in by_adapter[_NAME].named_parameters()
    }


def peft_names(part: nn.Module) -> dict[str, nn.Parameter]:
    """The same by the names that peft's `adapter_model.safetensors` has."""
    return {
        f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": parameter for name, parameter in adapter_parameters(part).items()
    }


def adapted_names(part: nn.Module) -> frozenset[str]:
    """The names of the layers of a part that have an adapter, whoever put it there."""
    return frozenset(name for name, module in part.named_modules() if isinstance(module, BaseTunerLayer))


def read_adapter(part: nn.Module, folder: Path) -> Adapter:
    """Put the adapters that a folder in peft's format describes on a part; their values are still to be filled in.

    Raises `CheckpointError` where the description is not one of LoRA adapters, or its layers are not in the part.
    """
    description = f"`{folder / 'adapter_config.json'}`"
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{description} is not a description of adapters that peft understands: {error}") from error
    if not isinstance(config, LoraConfig) or not isinstance(config.target_modules, set | list):
        raise CheckpointError(f"{description} describes no LoRA adapters on named layers, as vlmzoo writes them")
    layers = [name for name in linear_layers(part, [part]) if any(ends_with(name, end) for end in config.target_modules)]
    try:
        return add_adapters(part, config, layers)
    except ValueError as error:  # peft finds none of the layers
        raise CheckpointError(f"{description} does not fit to the part: {error}") from error


def ends_with(name: str, end: str) -> bool:
    """Whether a layer is meant by the end of its name, as peft understands it: `q_proj` is that of every block."""
    return name == end or name.endswith(f".{end}")


def merge_adapters(part: nn.Module) -> None:
    """Add the adapters to the weights they are on, and take them away; outputs stay what they were, but for rounding."""
    found = {name: module for name, module in part.named_modules() if isinstance(module, LoraLayer)}
    for name, module in found.items():
        with torch.no_grad():
            module.merge()
        around, _, last = name.rpartition(".")
        setattr(part.get_submodule(around), last, module.get_base_layer())


def _added(module: nn.Module) -> list[nn.Module]:
    """What peft added to a layer: the modules with the adapter's matrices, and its dropout."""
    return [inner for name, child in module.named_children() if name != "base_layer" for inner in child.modules()]
