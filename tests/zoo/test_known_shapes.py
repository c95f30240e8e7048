"""Shapes that were worked out once: the same plans, the same refusals, and each question asked once."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from small_models import CROSS, GPT2, LLAMA, MLP, causal_lm, section
from torch import Tensor, nn

import vlmzoo
from vlmzoo.known_shapes import KnownShapes

VIT = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MODELS: dict[str, dict[str, Any]] = {
    "clip, a decoder in bfloat16": section(
        vision={"name": "transformers/vision", "config": VIT, "layers": [-2]}, language=causal_lm(LLAMA, dtype="bfloat16")
    ),
    "convolutions, blocks, tiles": section(
        "cross_attention",
        vision={"name": "timm/encoder", "config": {"architecture": "test_efficientnet"}},
        connector=[*MLP, *CROSS],
        language=causal_lm(GPT2),
    )
    | {"layout": {"name": "layouts/dynamic-tiles"}},
}


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_is_the_same_with_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_them = vlmzoo.plan(MODELS[name])
    monkeypatch.setattr("vlmzoo.planning.KnownShapes", nullcontext)
    assert vlmzoo.plan(MODELS[name]) == with_them


def asked_of_torch(run: Callable[[], Any]) -> int:
    """How often torch works out a sine: it has no other reason to make one here."""
    counted = 0
    sine = torch.ops.aten.sin.default

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal counted
            counted += func is sine
            return func(*args, **(kwargs or {}))

    with Count(), KnownShapes():
        run()
    return counted


def empty(*shape: int, **options: Any) -> Tensor:
    return torch.empty(*shape, device="meta", **options)


def test_each_question_is_asked_once() -> None:
    assert asked_of_torch(lambda: [empty(2, 3).sin() for _ in range(40)]) == 1
    unlike = [empty(2, 3), empty(3, 2), empty(3, 2).T, empty(2, 3, dtype=torch.float64)]
    assert asked_of_torch(lambda: [tensor.sin() for tensor in unlike * 2]) == 4
    # What has values is worked out every time: its result has them too.
    assert asked_of_torch(lambda: [torch.zeros(2).sin() for _ in range(3)]) == 3


def test_answers_have_the_shape_the_strides_and_the_type_of_what_torch_says() -> None:
    asked: dict[str, Callable[[], Any]] = {
        "strides": lambda: empty(4, 6).T.sin(),
        "promotion": lambda: empty(3, dtype=torch.int64) + 1.5,
        "several": lambda: torch.ops.aten.native_layer_norm(empty(2, 4), [4], empty(4), None, 1e-5),
        "convolution": lambda: nn.functional.conv2d(empty(1, 3, 8, 8).to(memory_format=torch.channels_last), empty(5, 3, 2, 2)),
        "empty": lambda: torch.empty(3, device="meta"),
    }

    def described(result: Any) -> Any:
        tensors = result if isinstance(result, tuple) else (result,)
        return [(tensor.shape, tensor.stride(), tensor.dtype, tensor.device) for tensor in tensors]

    for dtype in (torch.float32, torch.bfloat16, torch.float32):  # of some, the type is the default one
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            plain = {name: described(ask()) for name, ask in asked.items()}
            with KnownShapes():
                for _ in range(2):
                    assert {name: described(ask()) for name, ask in asked.items()} == plain
        finally:
            torch.set_default_dtype(before)
    with KnownShapes():
        types = []
        for dtype in (torch.float32, torch.bfloat16):
            torch.set_default_dtype(dtype)
            types.append(torch.empty(3, device="meta").dtype)
        torch.set_default_dtype(torch.float32)
    assert types == [torch.float32, torch.bfloat16]


def test_what_does_not_fit_is_refused_every_time() -> None:
    with KnownShapes():
        for _ in range(2):
            with pytest.raises(RuntimeError, match="reduction dim"):
                empty(2, 3) @ empty(4, 5)
            with pytest.raises(RuntimeError):
                empty(2, 3).add_(empty(4))


def test_gradients_reach_what_they_reach() -> None:
    with torch.device("meta"), KnownShapes():
        layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        for layer in layers:
            nn.init.trunc_normal_(layer.weight)  # in place
        hidden = torch.empty(2, 4)
        for layer in layers[:2]:
            hidden = layer(hidden).relu_() + hidden[:, :1]
        parameters = list(layers.parameters())
        gradients = torch.autograd.grad(hidden.sum(), parameters, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [True] * 4 + [False] * 2
    assert [gradient.shape for gradient in gradients[:4]] == [parameter.shape for parameter in parameters[:4]]
