"""What a language model does between its output layer and its logits, found by feeding known numbers through it.

Gemma 2 caps its logits softly, Granite divides them, Cohere multiplies them. A loss that only applied the output layer
would train another model; so the output layer's result is replaced by a ramp in one forward, and what comes out says which
function is applied. An unknown function is refused, never ignored.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from vlmzoo_registry import PluginError

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


class LogitHead(nn.Module):
    """The output layer together with the transform of its result."""

    def __init__(self, linear: nn.Module, transform: LogitTransform) -> None:
        super().__init__()
        self.linear = linear
        self.transform = transform

    def forward(self, hidden: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows V"]:
        """Logits of hidden states."""
        return self.transform(self.linear(hidden))


def find_logit_transform(model: PreTrainedModel) -> LogitTransform:
    """The transform that `model` applies to its output layer's result.

    Raises `PluginError` where the output layer does not get the backbone's last hidden state, or where what follows it is
    neither a scale nor a soft cap.
    """
    linear = model.get_output_embeddings()
    name = model.config.model_type
    if linear is None:
        raise PluginError(f"`{name}` has no output layer (`get_output_embeddings()` is None), so it gives no logits")
    entered: list[Tensor] = []
    ramp: list[Tensor] = []

    def replace(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        entered.append(args[0])
        values = torch.linspace(-50, 50, output.numel(), dtype=torch.float32).reshape(output.shape)
        values[0, 0, :2] = torch.tensor([_LARGE, 1.0])
        ramp.append(values.to(output.dtype))
        return ramp[0].to(output.device)

    width = model.get_input_embeddings().weight.shape[1]
    embeddings = torch.zeros(1, 2, width, dtype=model.dtype, device=model.device)
    handle = linear.register_forward_hook(replace)
    try:
        with torch.no_grad():
            logits = model(inputs_embeds=embeddings, use_cache=False).logits.float().cpu()
    finally:
        handle.remove()
    with torch.no_grad():
        last = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    if not torch.equal(entered[0], last):
        raise PluginError(
            f"`{name}`: its output layer does not get the backbone's `last_hidden_state`, which the loss relies on"
        )
    values = ramp[0].float()
    large, one = logits[0, 0, 0].item(), logits[0, 0, 1].item()
    candidates = [LogitTransform(), LogitTransform(scale=large / _LARGE), LogitTransform(cap=large)]
    # A scale before a soft cap shows at small numbers: tanh is its argument there.
    if 0 < large < _LARGE / 10:
        candidates.append(LogitTransform(scale=large * torch.atanh(torch.tensor(one / large)).item(), cap=large))
    tolerance = 1e-5 if model.dtype == torch.float32 else 2e-2
    for candidate in candidates:
        if candidate.cap != 0 and torch.allclose(candidate(values), logits, rtol=tolerance, atol=tolerance):
            return candidate
    raise PluginError(
        f"`{name}` turns the output layer's result into logits by a function that is neither a scale nor a soft cap "
        f"(1 becomes {one:g}, {_LARGE:g} becomes {large:g}); the loss would be another model's"
    )
