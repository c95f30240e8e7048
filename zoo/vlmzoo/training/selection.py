"""Which parameters of a part train in a mode: found by what modules are, not by what a family calls them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from vlmzoo.config import TrainBias, TrainFull, TrainLast, TrainNorms, TrainPart
from vlmzoo_registry import AssemblyError, LanguageModel, VisionEncoder


@dataclass(frozen=True)
class Selection:
    """The parameters of a part that train, by name, and the same in words."""

    parameters: dict[str, nn.Parameter]
    how: str


def select(part: str, module: nn.Module, settings: TrainPart) -> Selection:
    """What of a part trains in a mode other than `lora`; nothing is changed.

    Parameters that no output depends on (an encoder's pooler, its blocks past the last tapped one), or that have no elements
    (DINOv3's registers where there are none), train in no mode.

    Raises `AssemblyError` where that is nothing, or not what the mode asks for.
    """
    usable = usable_parameters(module)
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


def unused_parameters(module: nn.Module) -> frozenset[str]:
    """Names of parameters that no output depends on, as an encoder names them."""
    return module.unused_parameters if isinstance(module, VisionEncoder) else frozenset()


def usable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that could train."""
    unused = unused_parameters(module)
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
