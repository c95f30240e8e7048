"""What is inside a vision tower, found by running a copy of it that carries no values.

The blocks are the modules called once each, in order, tokens to tokens; the last norm is what is called on their output; the
first convolution tells the grid; what a backward pass does not reach is unused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmzoo_registry import ConfigError
from vlmzoo_transformers.trace import find_layers, first_tensor, record_calls


@dataclass(frozen=True)
class Tower:
    """The structure of one tower at one image size; names are those of its submodules."""

    twin: PreTrainedModel
    size: int
    blocks: tuple[str, ...]
    norm: str | None
    width: int
    grid: tuple[int, int]
    prefix: int

    def run(self, model: nn.Module, pixels: Float[Tensor, "B 3 H W"], taps: Sequence[str]) -> list[Float[Tensor, "B N D"]]:
        """Run the tower and return the outputs of the tapped blocks, in the order asked for."""
        outputs: dict[str, Tensor] = {}

        def tap(name: str) -> Any:
            def keep(module: nn.Module, args: Any, output: Any) -> None:
                outputs[name] = first_tensor(output)

            return keep

        handles = [model.get_submodule(name).register_forward_hook(tap(name)) for name in dict.fromkeys(taps)]
        try:
            model(pixel_values=pixels)
        finally:
            for handle in handles:
                handle.remove()
        return [outputs[name] for name in taps]

    def unused(self, taps: Sequence[str], final_norm: bool) -> frozenset[str]:
        """The parameters that no tapped output depends on, found by a backward pass without values, and constants."""
        pixels = torch.zeros(1, 3, self.size, self.size, device="meta")
        parameters = {name: parameter for name, parameter in self.twin.named_parameters() if parameter.requires_grad}
        with torch.enable_grad():
            outputs = self.run(self.twin, pixels, taps)
            if final_norm:
                assert self.norm is not None
                outputs = [self.twin.get_submodule(self.norm)(output) for output in outputs]
            total = torch.stack([output.sum() for output in outputs]).sum()
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        used = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        return frozenset(name for name, _ in self.twin.named_parameters() if name not in used)


def examine(twin: PreTrainedModel, size: int) -> Tower:
    """The structure of a tower on the meta device, at `size` pixels per side.

    Raises `ConfigError` where it is not built of equal blocks that map tokens to tokens.
    """
    twin.eval()
    family = twin.config.model_type
    pixels = torch.zeros(1, 3, size, size, device="meta")
    try:
        with torch.no_grad():
            calls = record_calls(twin, lambda: twin(pixel_values=pixels))
    except TypeError as error:
        raise ConfigError(f"`{family}` does not run on pixels alone, which `transformers/vision` needs ({error})") from error
    convolutions = [call for call in calls if isinstance(twin.get_submodule(call.name), nn.Conv2d)]
    widths = {call.output[-1] for call in calls if call.output is not None and len(call.output) == 3}
    lists = {width: find_layers(twin, calls, width) for width in sorted(widths)}
    found = [(width, name) for width, name in lists.items() if name is not None]
    if len(found) != 1 or not convolutions or convolutions[0].output is None:
        raise ConfigError(
            f"`{family}` is not built of equal blocks of tokens after one patch convolution, which `transformers/vision` "
            "needs; `timm/encoder` takes feature maps too"
        )
    width, path = found[0]
    blocks = tuple(f"{path}.{index}" for index in range(len(twin.get_submodule(path))))
    ended = [call.name for call in calls]
    last = ended.index(blocks[-1])
    tokens = calls[last].output
    assert tokens is not None
    grid = (convolutions[0].output[-2], convolutions[0].output[-1])
    norm = next((call.name for call in calls[last + 1 :] if _is_norm(twin.get_submodule(call.name), width)), None)
    return Tower(twin, size, blocks, norm, width, grid, tokens[1] - grid[0] * grid[1])


def _is_norm(module: nn.Module, width: int) -> bool:
    """Whether a module is one vector of weights as wide as a token, with or without a bias: a norm over the channel."""
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    return "weight" in shapes and set(shapes) <= {"weight", "bias"} and set(shapes.values()) == {(width,)}
