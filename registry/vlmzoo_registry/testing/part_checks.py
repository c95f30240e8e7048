"""What holds for every part of a model: encoders, connectors and language models alike."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import VlmzooError
from vlmzoo_registry.report import failure
from vlmzoo_registry.testing.check import CheckFunction, NotApplicable, require
from vlmzoo_registry.testing.harness import PassingHarness, first_difference
from vlmzoo_registry.testing.harnesses import harness_for
from vlmzoo_registry.testing.isolation import as_users_run_it, randomness
from vlmzoo_registry.testing.network import no_network
from vlmzoo_registry.testing.tiny import read_config, tiny_config

ROWS = 3


def builds_on_meta(component: Component) -> None:
    """Under `torch.device("meta")` the part builds with the same tensors (name, shape, type) and says the same of itself.

    Why: `vlmzoo plan` builds every part without values, to tell widths, parameters and memory before anything is downloaded.

    If it fails: create every tensor in the constructor with torch's own functions and no explicit `device`, and look at no
    value while building; where a number is needed, compute it from the config or from a copy made under
    `torch.device("cpu")`.
    """
    harness = harness_for(component)
    part = harness.build()
    with torch.device("meta"):
        twin = harness.build()
    require_same_tensors(_tensors(twin), _tensors(part), "without values", "with values")
    elsewhere = [name for name, tensor in twin.named_parameters() if tensor.device.type != "meta"]
    require(not elsewhere, "parameters that have values all the same", elsewhere)
    with torch.device("meta"):
        declared = harness.declared(twin)
    require_same_declaration(declared, harness.declared(part))


def is_deterministic(component: Component) -> None:
    """In evaluation mode two forwards of one input are equal bit for bit, and nothing global has changed.

    Why: a resumed run, a comparison and a test rest on it. Who draws from the global generators moves every later draw of
    the whole process.

    If it fails: switch dropout and the like by `self.training`, draw random numbers from a generator of your own, and leave
    the global generators, the gradient mode and the default dtype alone.
    """
    harness = harness_for(component)
    part = harness.build_open()
    inputs = harness.inputs(part, ROWS)
    states, gradients, dtype = randomness(), torch.is_grad_enabled(), torch.get_default_dtype()
    with as_users_run_it():
        first = harness.outputs(part, inputs)
    drawn = [name for name, state in randomness().items() if states[name] != state]
    second = harness.outputs(part, inputs)
    differing = [number for number, (one, two) in enumerate(zip(first, second, strict=True)) if not torch.equal(one, two)]
    require(not differing, f"outputs {differing} differ between two forwards of the same input")
    require(not drawn, f"a forward draws from the global generator of {', '.join(drawn)}")
    require(torch.is_grad_enabled() == gradients, "a forward leaves the gradient mode of torch changed")
    now = torch.get_default_dtype()
    require(now == dtype, f"a forward changes torch's default dtype from {dtype} to {now}")


def rows_are_independent(component: Component) -> None:
    """A row alone gives what the same row gives in a batch, to 1e-5.

    Why: else what a model says of an image depends on which others happen to stand beside it, and evaluation on the batch.

    If it fails: keep the batch on the first axis throughout; look for a `view`, `reshape` or mean that mixes it with another,
    and for batch normalisation that is not in evaluation mode.
    """
    harness = harness_for(component)
    part = harness.build_open()
    inputs = harness.inputs(part, ROWS)
    with torch.no_grad():
        together = harness.outputs(part, inputs)
        for row in range(ROWS):
            alone = harness.outputs(part, tuple(tensor[row : row + 1] for tensor in inputs))
            different = first_difference(alone, tuple(tensor[row : row + 1] for tensor in together))
            require(different is None, f"row {row} alone and in a batch of {ROWS}: {different}")


def gradients_reach_every_parameter(component: Component) -> None:
    """Every parameter that can train, except those that the part declares unused, gets a gradient that is not 0.

    Why: a tensor without a gradient trains to nothing and costs memory; under DDP it stops the run. Parameters that start at 0
    (gates, biases) are set at random first, so that they hold nothing back.

    If it fails: use the parameter, remove it, or (an encoder) name it in `unused_parameters`; look for `detach`, `no_grad`, and
    an activation that is 0 for every input.
    """
    harness = harness_for(component)
    part = harness.build_open()
    # A parameter without elements (no register tokens, say) has nothing to train.
    trainable = {name: tensor for name, tensor in part.named_parameters() if tensor.requires_grad and tensor.numel()}
    if not trainable:
        raise NotApplicable("it has no parameters that can train")
    backward(part, lambda: harness.outputs(part, harness.inputs(part, ROWS)))
    unused = harness.unused(part)
    without = [name for name, tensor in trainable.items() if name not in unused and not has_gradient(tensor)]
    require(not without, f"{len(without)} of {len(trainable)} parameters get no gradient", without)


def gradients_pass_through(component: Component) -> None:
    """What goes in (image tokens, hidden states, embeddings) gets a gradient in every row from what comes out.

    Why: the parts before this one train through it, also while it is frozen itself; without it they stay as they began.

    If it fails: look for `detach` and `no_grad`, and for rows that do not reach the output.
    """
    harness = harness_for(component)
    assert isinstance(harness, PassingHarness)
    part = harness.build_open().requires_grad_(False)
    inputs, outputs = harness.through(part)
    backward(part, lambda: outputs)
    without = [
        f"{name}, row {row}"
        for name, tensor in inputs.items()
        for row in range(len(tensor))
        if tensor.grad is None or not tensor.grad[row].any()
    ]
    require(not without, "with the part frozen, no gradient reaches what goes in", without)


def refuses_wrong_shapes(component: Component) -> None:
    """Tensors of a wrong rank or width are refused with an error of `vlmzoo_registry`, which names what is wrong.

    Why: torch's own message about matrices or views says neither which part was called nor what it expects; and a tensor that
    passes by accident, through broadcasting, is worse.

    If it fails: begin `forward` (of a language model: `decode`, of a decoder block: `keys_values` and `forward`) with
    `vlmzoo_registry.check_pixels` or `check_tokens`, or raise an `AssemblyError` with both numbers.
    """
    harness = harness_for(component)
    part = harness.build_open()
    reasons = []
    for what, call in harness.wrong_calls(part).items():
        error = _raised(call)
        if error is None:
            reasons.append(f"{what}: taken without a word")
        elif not isinstance(error, VlmzooError):
            reasons.append(f"{what}: {failure(error)}")
    require(not reasons, "wrong tensors are not refused with an error of vlmzoo", reasons)


def resolves_to_the_same_architecture(component: Component) -> None:
    """`resolve(config)` is offline, survives JSON, resolves to itself, and builds the same tensors and declarations.

    Why: a checkpoint keeps the resolved config, and is rebuilt from it on machines where the pretrained id is unknown.

    If it fails: write everything that the constructor takes from a pretrained id (sizes, preprocessing, layers) into fields of
    the config, and leave the id itself out.
    """
    harness = harness_for(component)
    config = tiny_config(component)
    part = harness.build(config)
    with no_network() as tried:
        resolved = type(part).resolve(config)
    require(not tried, "`resolve` reaches for the network", tried)
    again = read_config(component, resolved.model_dump(mode="json"))
    require(again == resolved, f"the resolved config changes on its way through JSON: {resolved!r} became {again!r}")
    twice = type(part).resolve(again)
    require(twice == resolved, f"resolved twice, the config changes: {resolved!r} became {twice!r}")
    rebuilt = harness.build(again)
    require_same_tensors(_tensors(rebuilt), _tensors(part), "from the resolved config", "from the config")
    require_same_declaration(harness.declared(rebuilt), harness.declared(part))


CHECKS: tuple[CheckFunction, ...] = (
    builds_on_meta,
    is_deterministic,
    rows_are_independent,
    gradients_reach_every_parameter,
    refuses_wrong_shapes,
)

PASSING: tuple[CheckFunction, ...] = (gradients_pass_through,)
"""For kinds that others train through."""

RESOLVED: tuple[CheckFunction, ...] = (resolves_to_the_same_architecture,)
"""For kinds whose contract has `resolve`."""


def backward(part: nn.Module, forward: Callable[[], tuple[Tensor, ...]]) -> None:
    """Gradients of a random weighting of all outputs (it keeps symmetric sums from cancelling); none where they have none."""
    part.zero_grad(set_to_none=True)
    total = torch.stack([(output * torch.randn_like(output)).sum() for output in forward()]).sum()
    if total.requires_grad:
        total.backward()


def has_gradient(tensor: Tensor) -> bool:
    """Whether a gradient arrived that is not 0 throughout."""
    return tensor.grad is not None and bool(tensor.grad.any())


def require_same_tensors(found: dict[str, object], wanted: dict[str, object], found_name: str, wanted_name: str) -> None:
    """Compare two parts by the names, shapes and types of their tensors."""
    reasons = [f"`{name}` is there {wanted_name} only" for name in wanted.keys() - found.keys()]
    reasons += [f"`{name}` is there {found_name} only" for name in found.keys() - wanted.keys()]
    reasons += [
        f"`{name}` is {found[name]} {found_name}, {wanted[name]} {wanted_name}"
        for name in found.keys() & wanted.keys()
        if found[name] != wanted[name]
    ]
    require(not reasons, "the tensors are not the same", sorted(reasons))


def require_same_declaration(found: dict[str, object], wanted: dict[str, object]) -> None:
    """Compare what two builds of a part say of themselves."""
    reasons = [f"`{name}`: {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    require(not reasons, "it declares something else", reasons)


def _tensors(part: nn.Module) -> dict[str, object]:
    trained = {name: tensor.requires_grad for name, tensor in part.named_parameters()}
    return {
        name: (tuple(tensor.shape), str(tensor.dtype), "trainable" if trained.get(name) else "fixed")
        for name, tensor in [*part.state_dict().items(), *part.named_parameters()]
    }


def _raised(call: Callable[[], Any]) -> Exception | None:
    """What a call raises."""
    try:
        with as_users_run_it(), torch.no_grad():
            call()
    except Exception as error:
        return error
    return None
