"""What holds for every connector whose blocks sit in the decoder: closed at the start, blind to what is not shown."""

import torch

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import AssemblyError
from vlmzoo_registry.report import failure
from vlmzoo_registry.testing.check import CheckFunction, NotApplicable, require
from vlmzoo_registry.testing.harness import TOLERANCE, difference, first_difference
from vlmzoo_registry.testing.layers_harness import DEPTHS, LayersHarness, blocks_of
from vlmzoo_registry.testing.part_checks import ROWS
from vlmzoo_registry.testing.tiny import tiny_config


def placement_fits_the_decoder(component: Component) -> None:
    """For decoders of several depths, `placement` is ascending, within the depth, and has one layer for each block.

    Why: the assembler runs `blocks[k]` at decoder layer `placement[k]`; a layer that is not there would never see an image.

    If it fails: derive the placement from `context.language_depth`, and raise `AssemblyError` with both numbers for a depth
    that does not fit.
    """
    harness = LayersHarness(component)
    reasons = []
    for depth in sorted(DEPTHS):
        try:
            connector = harness.make_in(tiny_config(component), depth)
        except AssemblyError:
            continue
        except Exception as error:
            reasons.append(f"a decoder of {depth} layers: {failure(error)}")
            continue
        placement = list(connector.placement)
        if len(placement) != len(connector.blocks):
            reasons.append(f"a decoder of {depth} layers: {len(connector.blocks)} blocks for the placement {placement}")
        if placement != sorted(set(placement)):
            reasons.append(f"a decoder of {depth} layers: the placement {placement} is not ascending")
        outside = [layer for layer in placement if not 0 <= layer < depth]
        if outside:
            reasons.append(f"a decoder of {depth} layers (0 to {depth - 1}): the placement names {outside}")
    require(not reasons, "the blocks do not fit to every decoder that is accepted", reasons)
    assert harness.depth  # one that is accepted


def gates_start_closed(component: Component) -> None:
    """As built, every gate is 0 and every block gives back the hidden states bit for bit.

    Why: the assembled model then starts as the text-only model exactly, and learns to look from there (Flamingo, section 2.2).

    If it fails: start the parameters of `gates` at 0, let each multiply all that a block adds (tanh(gate) x ...), and return
    `hidden + gate * ...` with nothing else in between, no norm and no cast.
    """
    harness = LayersHarness(component)
    connector = harness.build()
    own = {id(parameter) for parameter in connector.parameters()}
    strangers = [number for number, gate in enumerate(connector.gates) if id(gate) not in own]
    require(not strangers, f"`gates` {strangers} are not parameters of the connector")
    open_gates = [f"gate {number} is {gate.tolist()}" for number, gate in enumerate(connector.gates) if gate.any()]
    require(not open_gates, "gates do not start at 0", open_gates)
    hidden, tokens, visible = harness.inputs(connector, ROWS)
    with torch.no_grad():
        for number, after in enumerate(harness.outputs(connector, (hidden, tokens, visible))):
            require(
                after.shape == hidden.shape and torch.equal(after, hidden),
                f"block {number} changes the hidden states though its gates are 0",
            )


def blind_positions_stay(component: Component) -> None:
    """A text position that sees no image token leaves a block bit for bit as it came, with finite gradients around it.

    Why: text before the first image, and rows without any, must be those of the language model alone. A softmax over nothing
    is NaN, and its gradient spoils the whole batch even where the value is thrown away.

    If it fails: let a position that sees nothing attend to everything instead, and take its result back with `torch.where`.
    With another `masked_rows` than "zero" the check does not apply.
    """
    harness = LayersHarness(component)
    connector = harness.build_open()
    if connector.masked_rows != "zero":
        raise NotApplicable(f"`masked_rows` is {connector.masked_rows!r}")
    hidden, tokens, visible = harness.inputs(connector, ROWS)
    visible[0] = False
    blind = ~visible.any(dim=2)
    hidden.requires_grad_()
    for number, after in enumerate(harness.outputs(connector, (hidden, tokens, visible))):
        changed = int((after[blind] != hidden[blind]).any(dim=1).sum())
        require(changed == 0, f"block {number} changes {changed} of {int(blind.sum())} positions that see no image token")
        require(bool(torch.isfinite(after).all()), f"block {number} returns numbers that are not finite")
    torch.stack([after.square().sum() for after in harness.outputs(connector, (hidden, tokens, visible))]).sum().backward()
    gradients = {"hidden states": hidden.grad} | {name: tensor.grad for name, tensor in connector.named_parameters()}
    spoiled = [name for name, grad in gradients.items() if grad is not None and not torch.isfinite(grad).all()]
    require(not spoiled, "gradients are not finite where some positions see nothing", spoiled)


def sees_only_what_is_visible(component: Component) -> None:
    """With open gates, a position that sees changes with a visible image token, and never with one that is masked.

    Why: masked are the images that come later in the text and the padding of rows with fewer images; to see them is to leak.

    If it fails: apply `visible` [B, S, M] to the attention scores before the softmax, True where a position may look.
    """
    harness = LayersHarness(component)
    connector = harness.build_open()
    hidden, tokens, visible = harness.inputs(connector, ROWS)
    masked, shown = tokens.clone(), tokens.clone()
    masked[:, -1] += 1.0
    shown[:, 0] += 1.0
    with torch.no_grad():
        before = harness.outputs(connector, (hidden, tokens, visible))
        leaked = harness.outputs(connector, (hidden, masked, visible))
        moved = harness.outputs(connector, (hidden, shown, visible))
    sees = visible.any(dim=2)
    for number, (old, leak, move) in enumerate(zip(before, leaked, moved, strict=True)):
        distance = difference(leak[sees], old[sees])
        require(distance <= TOLERANCE, f"block {number} moves by {distance:.2g} with an image token that nobody may see")
        require(not torch.equal(move[sees], old[sees]), f"block {number} does not change with an image token that is visible")


def keys_values_are_batch_first(component: Component) -> None:
    """`keys_values` gives keys and values with the batch on the first axis, each row those of its own image tokens.

    Why: generation caches them, and follows the expansion and reordering of beams by selecting rows of the first axis.

    If it fails: transpose so that the batch comes first, also before the heads.
    """
    harness = LayersHarness(component)
    connector = harness.build_open()
    _, tokens, _ = harness.inputs(connector, ROWS)
    with torch.no_grad():
        for number, block in enumerate(blocks_of(connector)):
            pair = block.keys_values(tokens)
            sizes = [tuple(tensor.shape) for tensor in pair]
            require(all(size[0] == ROWS for size in sizes), f"block {number}: the shapes {sizes} do not begin with {ROWS} rows")
            for row in range(ROWS):
                own = tuple(tensor[row : row + 1] for tensor in pair)
                different = first_difference(block.keys_values(tokens[row : row + 1]), own)
                require(different is None, f"block {number}, row {row} alone and in a batch of {ROWS}: {different}")


CHECKS: tuple[CheckFunction, ...] = (
    placement_fits_the_decoder,
    gates_start_closed,
    blind_positions_stay,
    sees_only_what_is_visible,
    keys_values_are_batch_first,
)
