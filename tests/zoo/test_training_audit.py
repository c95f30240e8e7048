"""The audit: every fault is planted and found by name, and no sound run is stopped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from small_models import GPT2, LLAMA, causal_lm, picture, section
from torch import Tensor, nn

import vlmzoo
from vlmzoo.config import TrainBias, TrainFull, TrainLast, TrainLora, TrainNorms, TrainPart
from vlmzoo.model.vlm import VLM
from vlmzoo.training.audit import STEPS, Audit
from vlmzoo.training.fingerprint import fingerprint
from vlmzoo.training.optimization import make_optimizer, set_rates
from vlmzoo.training.trainable import set_trainable
from vlmzoo_registry import AssemblyError

FULL = TrainFull(lr=1e-3)
CNN = {"name": "timm/encoder", "config": {"architecture": "test_efficientnet"}}


class Run:
    """A training loop as short as it can be, with the audit in it; `texts` are the steps whose batches have no image."""

    def __init__(self, model: VLM, train: dict[str, TrainPart], *, texts: tuple[int, ...] = (), warmup: float = 0.0) -> None:
        self.model, self.texts, self.warmup = model, texts, warmup
        self.states = set_trainable(model, train)
        self.optimizer = make_optimizer(self.states)
        self.audit = Audit(model, self.states, self.optimizer)
        with_image = model.processor(text=["a red cat", "what"], images=[[picture(1)], [picture(2)]])
        without = model.processor(text=["a red cat", "what"])
        self.batches = [{**batch, "labels": batch["input_ids"]} for batch in (with_image, without)]
        self.step = 0

    def steps(self, count: int, total: int = 100, between: Callable[[], None] = lambda: None) -> "Run":
        for _ in range(count):
            rates = set_rates(self.optimizer, self.states, self.step, total, self.warmup, "constant")
            images = self.step not in self.texts
            loss = self.model(**self.batches[0 if images else 1]).loss
            if loss.requires_grad:
                loss.backward()
            between()
            self.audit.after_backward(self.step, has_images=images)
            self.optimizer.step()
            self.audit.after_step(self.step, rates)
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
        return self


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(AssemblyError) as refused:
        action()
    return str(refused.value)


# ---- sound runs ------------------------------------------------------------------------------------------------------------

EVERYTHING = {"vision": FULL, "connector": FULL, "language": FULL}


@pytest.mark.parametrize(
    ("model", "train", "warmup"),
    [
        (section(), EVERYTHING, 0.0),
        (section("cross_attention"), EVERYTHING, 0.5),  # gates at 0
        (section("cross_attention", language=causal_lm(GPT2)), {"connector": TrainFull(lr=1e-4)}, 0.5),
        (section(vision=CNN, language=causal_lm(LLAMA)), EVERYTHING, 0.0),  # batch norms that count
        (section(vision=CNN), {"vision": TrainNorms(mode="norms", lr=1e-3)}, 0.0),
        (section(language=causal_lm(LLAMA, dtype="bfloat16")), {"language": TrainFull(lr=1e-6), "connector": FULL}, 0.5),
        (section(), {"language": TrainLast(mode="last", lr=1e-3, layers=1)}, 0.0),
        (section("cross_attention"), {"connector": FULL, "vision": TrainLora(mode="lora", lr=1e-3, rank=2)}, 0.5),
    ],
)
def test_a_sound_run_is_not_stopped_and_everything_moved(model: dict[str, Any], train: Any, warmup: float) -> None:
    run = Run(vlmzoo.build(model), train, warmup=warmup).steps(STEPS + 2)
    run.audit.finish()
    for row in run.audit.rows():
        assert row["moved"] == row["tensors"] and row["waiting"] == []
        assert (row["tensors"] > 0) == (row["part"] in train)
        assert row["tensors"] == 0 or row["by_step"] <= 3  # gates, then blocks and second matrices, then first ones
        assert row["frozen"] > 0 or row["part"] in train


def test_steps_in_which_nothing_can_move_do_not_count() -> None:
    """Batches without an image for the connector; rates that float32 rounds away next to a norm's ones."""
    model = vlmzoo.build(section(language=causal_lm(LLAMA)))
    train = {"connector": FULL, "language": TrainFull(lr=1e-4)}
    run = Run(model, train, texts=tuple(range(7)), warmup=0.999).steps(7, total=10**6)
    waiting = {row["part"]: row["waiting"] for row in run.audit.rows()}
    assert waiting["connector"] == [name for name, _ in model.named_parameters() if name.startswith("connector.")]
    assert waiting["language"] and all("norm" in name for name in waiting["language"])
    run.warmup = 0.0
    run.steps(2)
    run.audit.finish()
    assert not any(row["waiting"] for row in run.audit.rows())


def test_a_short_run_says_what_it_has_not_seen_move() -> None:
    run = Run(vlmzoo.build(section("cross_attention")), {"connector": FULL}).steps(1)
    run.audit.finish()
    row = next(row for row in run.audit.rows() if row["part"] == "connector")
    gates = {f"connector.{name}" for name, _ in run.model.connector.named_parameters() if name.endswith("_gate")}
    assert row["moved"] == len(gates) == 4
    assert len(row["waiting"]) == row["tensors"] - 4 and not gates & set(row["waiting"])


def test_what_a_component_names_as_idle_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vlmzoo.build(section())
    expert = model.connector[0].unused = nn.Linear(3, 3)
    message = refusal(lambda: Run(model, {"connector": FULL}).steps(1))
    assert "`connector.0.unused.weight` trains, but got no gradient" in message
    monkeypatch.setattr(type(model.connector[0]), "idle_parameters", frozenset({"unused.weight", "unused.bias"}))
    run = Run(model, {"connector": FULL}).steps(STEPS + 1)
    assert next(row for row in run.audit.rows() if row["part"] == "connector")["waiting"] == [
        "connector.0.unused.weight",
        "connector.0.unused.bias",
    ]
    assert expert.weight.requires_grad


# ---- faults ----------------------------------------------------------------------------------------------------------------


@contextmanager
def cut_off(model: VLM) -> Iterator[None]:
    connector = type(model.connector[0])
    forward = connector.forward

    def cut(self: Any, features: Any) -> Any:
        with torch.no_grad():
            return forward(self, features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connector, "forward", cut)
        yield


def test_a_connector_that_is_cut_off() -> None:
    model = vlmzoo.build(section())
    with cut_off(model):
        message = refusal(lambda: Run(model, {"connector": FULL, "language": FULL}).steps(1))
    names = [f"connector.{name}" for name, _ in model.connector.named_parameters()]
    assert message == "\n".join(
        ["the first step does not train what the recipe says", *(f"  - `{n}` trains, but got no gradient" for n in names)]
    )


def test_requires_grad_that_something_switches_off() -> None:
    model = vlmzoo.build(section())
    run = Run(model, {"connector": FULL, "language": FULL})
    model.language.norm.weight.requires_grad_(False)
    assert refusal(lambda: run.steps(1)) == (
        "the first step does not train what the recipe says\n  - `language.norm.weight` trains, but got no gradient: its "
        "`requires_grad` is off"
    )


def test_a_gradient_that_is_always_0() -> None:
    """It is there, so the first step does not tell."""
    model = vlmzoo.build(section())
    handle = model.connector[0].register_forward_hook(
        lambda module, args, features: type(features)(features.tokens * 0, features.grid, features.prefix)
    )
    run = Run(model, {"connector": FULL, "language": FULL}).steps(STEPS - 1)
    message = refusal(lambda: run.steps(1))
    handle.remove()
    names = [f"connector.{name}" for name, _ in model.connector.named_parameters()]
    assert message == "\n".join(
        [
            "after 5 optimizer steps the run does not train what the recipe says. A component whose parameters may go without "
            "a gradient (experts that no token chose) names them in `idle_parameters`",
            *(f"  - `{name}` trains, but its gradient has been 0 in all of them" for name in names),
        ]
    )


def test_gates_that_are_closed_for_good() -> None:
    """Norms of the blocks train and the gates before them do not: nothing would ever be learnt."""
    run = Run(vlmzoo.build(section("cross_attention")), {"connector": TrainNorms(mode="norms", lr=1e-3)}).steps(STEPS - 1)
    message = refusal(lambda: run.steps(1))
    assert (
        "`connector.0.blocks.0.norm.weight` trains, but its gradient has been 0 in all of them (gates are 0 and frozen, so "
        "nothing behind them can learn: `connector.0.blocks.0.attention_gate`, 4 in all)"
    ) in message


def test_norms_that_start_at_0_and_stay_there() -> None:
    """Biases behind the last norm of a residual branch, whose scale is 0 in a fresh ResNet and frozen by `mode: bias`."""
    resnet = {"name": "timm/encoder", "config": {"architecture": "test_resnet"}}
    run = Run(vlmzoo.build(section(vision=resnet)), {"vision": TrainBias(mode="bias", lr=1e-3)}).steps(STEPS - 1)
    assert (
        "`vision.model.layer1.0.bn1.bias` trains, but its gradient has been 0 in all of them (what it acts through may be 0 "
        "and frozen: a residual norm that starts at 0, a gate)"
    ) in refusal(lambda: run.steps(1))


def test_an_optimizer_that_skips_a_group() -> None:
    run = Run(vlmzoo.build(section()), {"connector": FULL, "language": FULL})
    run.optimizer.param_groups = [group for group in run.optimizer.param_groups if group["part"] != "connector"]
    run.steps(STEPS - 1)
    message = refusal(lambda: run.steps(1))
    names = [f"connector.{name}" for name, _ in run.model.connector.named_parameters()]
    expected = [f"  - `{n}` trains and has gradients, but has not moved: the optimizer does not step it" for n in names]
    assert message.splitlines()[1:] == expected


def test_a_part_in_bf16_without_masters_is_found_by_not_moving() -> None:
    """What the masters are for: a plain AdamW would round every step away, and the run would teach nothing."""
    model = vlmzoo.build(section(language=causal_lm(LLAMA, dtype="bfloat16")))
    run = Run(model, {"language": TrainFull(lr=1e-6)})
    groups = [{key: group[key] for key in ("params", "lr", "part", "weight_decay")} for group in run.optimizer.param_groups]
    run.optimizer = run.audit._optimizer = torch.optim.AdamW(groups)
    norms = {name: p for name, p in model.named_parameters() if name.startswith("language.") and p.ndim == 1}
    before = {name: p.detach().clone() for name, p in norms.items()}
    message = refusal(lambda: run.steps(STEPS))
    assert all(torch.equal(p, before[name]) for name, p in norms.items())
    assert all(f"`{name}` trains and has gradients, but has not moved" in message for name in norms)


@pytest.mark.parametrize("index", [0, -1])
def test_a_frozen_tensor_that_is_moved(index: int) -> None:
    run = Run(vlmzoo.build(section()), {"connector": FULL}).steps(1)
    name, parameter = list(run.model.vision.named_parameters())[index]
    with torch.no_grad():
        parameter.view(-1)[index] += 1e-7 + 2e-7 * parameter.view(-1)[index].abs()
    expected = (
        f"  - `vision.{name}` is frozen, but has moved: something other than the optimizer writes it (a module in training "
        "mode, a tensor that is shared with one that trains)"
    )
    assert refusal(run.audit.finish) == f"after 1 optimizer steps, frozen tensors are not as they were\n{expected}"
    assert refusal(lambda: run.steps(STEPS - 1)).splitlines()[1:] == [expected]


def test_a_batch_norm_that_counts_in_a_frozen_encoder() -> None:
    """An encoder whose `train` keeps its norms in training mode, whatever it is told."""
    model = vlmzoo.build(section(vision=CNN))
    run = Run(model, {"connector": FULL})
    norms = {name: module for name, module in model.vision.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.training = True
    message = refusal(lambda: run.steps(STEPS))
    assert all(f"`vision.{name}" in message for name in list(norms)[:3])
    assert "running_mean` is frozen, but has moved" in message
    assert "num_batches_tracked` is frozen, but has moved" in message
    assert message.endswith(f"and {3 * len(norms) - 10} more")


def test_a_frozen_tensor_with_a_gradient() -> None:
    run = Run(vlmzoo.build(section()), {"connector": FULL})

    def gradient() -> None:
        run.model.vision.positions.grad = torch.ones_like(run.model.vision.positions)

    assert refusal(lambda: run.steps(1, between=gradient)) == (
        "the first step does not train what the recipe says\n  - `vision.positions` is frozen, but got a gradient"
    )


# ---- being taken up --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(STEPS + 2))
def test_an_audit_that_is_taken_up_goes_on(stop: int) -> None:
    """After any number of steps: the same is asked for, and found in the same step, as if it had never stopped."""
    straight = Run(vlmzoo.build(section("cross_attention")), {"connector": FULL}, texts=(0, 2)).steps(STEPS + 2)
    run = Run(vlmzoo.build(section("cross_attention")), {"connector": FULL}, texts=(0, 2)).steps(stop)
    saved = run.audit.state()
    run.audit = Audit(run.model, run.states, run.optimizer, saved)
    assert run.audit.state() == saved
    run.steps(STEPS + 2 - stop)
    run.audit.finish()
    assert run.audit.rows() == straight.audit.rows()


def test_frozen_tensors_of_other_values_are_found_when_a_run_is_taken_up() -> None:
    run = Run(vlmzoo.build(section()), {"connector": FULL}).steps(2)
    saved = run.audit.state()
    other = Run(vlmzoo.build(section()), {"connector": FULL})
    other.audit = Audit(other.model, other.states, other.optimizer, saved)
    assert "is frozen, but has moved" in refusal(other.audit.finish)


# ---- fingerprints ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_a_fingerprint_sees_every_bit_and_place(dtype: torch.dtype) -> None:
    tensor = (torch.arange(2 * 2**20 + 3) % 7 > 3).to(dtype)
    seen = {fingerprint(tensor)}
    assert fingerprint(tensor.clone()) in seen
    for place in (0, 2**20 - 1, 2**20, 2**20 + 5, len(tensor) - 1):
        changed = tensor.clone()
        changed[place] = 1 - changed[place].to(torch.int64)
        seen.add(fingerprint(changed))
    assert len(seen) == 6


def test_a_fingerprint_sees_what_a_sum_does_not() -> None:
    one = torch.tensor([1.25, 1.5, 1.75])
    words: Tensor = one.view(torch.int32)
    other = torch.tensor([words[0] + 8, words[1] - 8, words[2]], dtype=torch.int32).view(torch.float32)
    assert int(other.view(torch.int32).sum()) == int(words.sum())
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(torch.tensor([0.0])) != fingerprint(torch.tensor([-0.0]))
    assert fingerprint(torch.zeros(3, 0)) == 0
    assert fingerprint(torch.arange(6.0).reshape(2, 3).T) == fingerprint(torch.tensor([0.0, 3, 1, 4, 2, 5]))
