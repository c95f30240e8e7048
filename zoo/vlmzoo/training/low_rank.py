"""The mode `lora`: which layers of a part get adapters, and whether those it has are the ones that a stage asks for."""

from peft import LoraConfig
from torch import nn

from vlmzoo.adapters import Adapter, add_adapters, ends_with, linear_layers
from vlmzoo.config import TrainLora
from vlmzoo.training.selection import blocks_of, unused_parameters, usable_parameters
from vlmzoo_registry import AssemblyError
from vlmzoo_registry.suggest import did_you_mean


def put_adapters(part: str, module: nn.Module, settings: TrainLora) -> Adapter:
    """Put the adapters that a stage asks for on a part. Raises `AssemblyError` as `adapted_layers` does."""
    layers = adapted_layers(part, module, settings)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft says int, and only divides it by the rank
        lora_dropout=settings.dropout,
        target_modules=layers,
        bias="none",
    )
    return add_adapters(module, config, layers)


def check_adapter(part: str, module: nn.Module, settings: TrainLora, adapter: Adapter | None) -> None:
    """Raise `AssemblyError` where a part cannot get these adapters, or has others already; changes nothing."""
    layers = adapted_layers(part, module, settings)
    if adapter is None:
        return
    config = adapter.config
    there = (config.r, config.lora_alpha, config.lora_dropout, len(adapter.layers))
    asked = (settings.rank, settings.alpha, settings.dropout, len(layers))
    if there != asked or adapter.layers != set(layers):
        words = "rank {:g}, alpha {:g}, dropout {:g} on {} layers"
        raise AssemblyError(
            f"the part has adapters from an earlier stage, of {words.format(*there)}, and this one asks for "
            f"{words.format(*asked)}{'' if there != asked else ', others'}: give the same settings, and it goes on with them "
            "(any other mode merges them)"
        )


def adapted_layers(part: str, module: nn.Module, settings: TrainLora) -> list[str]:
    """The names of the layers that get an adapter: linear ones of the part's blocks, never embeddings or the head.

    Of a connector that is all of it. Raises `AssemblyError` where there are none, or none that a target names.
    """
    usable = usable_parameters(module)
    inside = [module] if part == "connector" else blocks_of(part, module, usable)
    layers = [name for name in linear_layers(module, inside) if f"{name}.weight" not in unused_parameters(module)]
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
