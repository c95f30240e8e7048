"""float32 masters of 16-bit parameters: against a float32 run, against torch's AdamW, and through being saved and restored."""

import pytest
import torch
from small_models import LLAMA, causal_lm, section
from torch import Tensor, nn

import vlmzoo
from vlmzoo.config import TrainFull
from vlmzoo.training.optimization import MasterAdamW, make_optimizer, optimizer_tensors, restore_optimizer, set_rates
from vlmzoo.training.trainable import PartState, set_trainable
from vlmzoo_registry import CheckpointError


def state_of(dtype: torch.dtype, value: float = 1.0) -> PartState:
    """A part of one matrix and one vector."""
    torch.manual_seed(0)
    tensors = {"weight": value + 0.1 * torch.randn(5, 7), "bias": value + 0.1 * torch.randn(7)}
    rounded = {name: nn.Parameter(tensor.bfloat16().to(dtype)) for name, tensor in tensors.items()}
    return PartState("language", TrainFull(lr=1e-5, weight_decay=0.1), rounded, {}, "full")


def run(state: PartState, steps: int, lr: float = 1e-5, restart: int | None = None) -> MasterAdamW:
    """Steps with gradients that are the same in every type: small whole numbers."""
    optimizer = make_optimizer([state])
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        if step == restart:
            kept = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, [state]).items()}
            optimizer = make_optimizer([state])
            restore_optimizer(optimizer, [state], kept)
        for group in optimizer.param_groups:
            group["lr"] = lr
        for parameter in state.trained.values():
            parameter.grad = torch.randint(-2, 6, parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()
    return optimizer


def test_masters_go_where_float32_goes_and_bf16_alone_would_not() -> None:
    """Half the distance between two bf16 numbers near 1 is 0.002-0.004: steps of 1e-5 are rounded away one by one."""
    coarse, fine = state_of(torch.bfloat16), state_of(torch.float32)
    optimizer, _ = run(coarse, 400), run(fine, 400)
    alone = state_of(torch.bfloat16)
    start = {name: parameter.detach().clone() for name, parameter in alone.trained.items()}
    naive = torch.optim.AdamW(alone.trained.values(), lr=1e-5, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(400):
        for parameter in alone.trained.values():
            parameter.grad = torch.randint(-2, 6, parameter.shape, generator=generator).to(parameter.dtype)
        naive.step()
    for name, parameter in coarse.trained.items():
        master = optimizer.state[parameter]["master"]
        assert torch.equal(master, fine.trained[name]), name
        assert torch.equal(parameter, master.bfloat16())
        assert (parameter != start[name]).float().mean() > 0.3
        assert torch.equal(alone.trained[name], start[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_masters_it_is_torchs_adamw_to_the_bit(dtype: torch.dtype) -> None:
    ours, theirs = state_of(dtype), state_of(dtype)
    optimizer = run(ours, 20, lr=3e-3)
    weight, bias = theirs.trained["weight"], theirs.trained["bias"]
    reference = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.1}, {"params": [bias], "weight_decay": 0.0}], lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        for parameter in theirs.trained.values():
            parameter.grad = torch.randint(-2, 6, parameter.shape, generator=generator).to(parameter.dtype)
        reference.step()
    for name, parameter in ours.trained.items():
        assert torch.equal(parameter, theirs.trained[name])
        for key, value in reference.state[theirs.trained[name]].items():
            assert torch.equal(optimizer.state[parameter][key], value), (name, key)


def test_a_part_in_bf16_beside_one_in_float32() -> None:
    """One optimizer, a learning rate each, and only the 16-bit part has masters."""
    model = vlmzoo.build(section(language=causal_lm(LLAMA, dtype="bfloat16")))
    states = set_trainable(model, {"connector": TrainFull(lr=1e-2), "language": TrainFull(lr=1e-5)})
    optimizer = make_optimizer(states)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in range(3):
        set_rates(optimizer, states, step, 3, 0.0, "constant")
        for state in states:
            for parameter in state.trained.values():
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for state in states:
        for name, parameter in state.trained.items():
            kept = optimizer.state[parameter]
            assert ("master" in kept) == (state.name == "language") == (parameter.dtype == torch.bfloat16)
            moved = (kept.get("master", parameter) - before[f"{state.name}.{name}"].float()).abs()
            assert torch.allclose(moved, torch.full_like(moved, 3e-2 if state.name == "connector" else 3e-5), rtol=1e-2), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("restart", [1, 7])
def test_a_restored_optimizer_goes_on_to_the_bit(dtype: torch.dtype, restart: int) -> None:
    straight, stopped = state_of(dtype), state_of(dtype)
    first, second = run(straight, 12), run(stopped, 12, restart=restart)
    for name, parameter in straight.trained.items():
        assert torch.equal(parameter, stopped.trained[name])
    expected, found = optimizer_tensors(first, [straight]), optimizer_tensors(second, [stopped])
    keys = ["exp_avg", "exp_avg_sq", "step"] + (["master"] if dtype == torch.bfloat16 else [])
    assert found.keys() == {f"language.{name}.{key}" for name in ("weight", "bias") for key in keys}
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_the_state_before_the_first_step_can_be_kept_too() -> None:
    straight, stopped = state_of(torch.bfloat16), state_of(torch.bfloat16)
    run(straight, 3)
    run(stopped, 3, restart=0)
    assert all(torch.equal(parameter, stopped.trained[name]) for name, parameter in straight.trained.items())


def restored(change: dict[str, Tensor | None], *, moved: bool = False) -> str:
    state = state_of(torch.bfloat16)
    optimizer = run(state, 2)
    tensors: dict[str, Tensor | None] = {**optimizer_tensors(optimizer, [state]), **change}
    if moved:
        with torch.no_grad():
            state.trained["bias"] += 1
    fresh = make_optimizer([state])
    with pytest.raises(CheckpointError) as refused:
        restore_optimizer(fresh, [state], {name: tensor for name, tensor in tensors.items() if tensor is not None})
    assert not fresh.state
    return "\n".join(refused.value.reasons)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"language.weight.exp_avg": None}, "language.weight.exp_avg: not among the saved ones"),
        ({"language.scale.step": torch.tensor(1.0)}, "language.scale.step: saved, but nothing here has a use for it"),
        ({"language.weight.exp_avg": torch.zeros(7, 5)}, "language.weight.exp_avg: [7, 5] float32 saved, [5, 7] float32 here"),
        (
            {"language.weight.exp_avg": torch.zeros(5, 7).bfloat16()},
            "language.weight.exp_avg: [5, 7] bfloat16 saved, [5, 7] float32 here",
        ),
        ({"language.bias.master": torch.zeros(7)}, "language.bias.master: rounded, it is not the parameter as it is here"),
    ],
)
def test_state_that_does_not_fit_is_named(change: dict[str, Tensor | None], reason: str) -> None:
    assert restored(change) == reason


def test_state_of_other_weights_is_refused() -> None:
    assert restored({}, moved=True) == "language.bias.master: rounded, it is not the parameter as it is here"
