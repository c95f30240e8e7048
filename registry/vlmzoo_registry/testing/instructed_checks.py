"""What holds for a connector that reads the instruction too: it reads that of its row, all of it, and no padding."""

import torch
from torch import Tensor

from vlmzoo_registry.component import Component
from vlmzoo_registry.connector import InstructedConnector
from vlmzoo_registry.report import failure
from vlmzoo_registry.testing.check import CheckFailure, CheckFunction, require
from vlmzoo_registry.testing.connector_harness import INSTRUCTION, ConnectorHarness, features_of
from vlmzoo_registry.testing.harness import TOLERANCE, difference
from vlmzoo_registry.vision import VisionFeatures

OTHER = "How many birds are there?"
LENGTH = 8
"""How many ids at once a connector is given of its tokenizer's vocabulary."""


def reads_the_instruction(component: Component) -> None:
    """Another instruction gives a row other tokens, and changes no other row.

    Why: a connector that ignores the words trains like one without them, only slower; one that mixes rows says of an image
    what was asked about another.

    If it fails: let `instruction_ids` reach the tokens that come out, and keep the batch on the first axis throughout.
    """
    harness = ConnectorHarness(component)
    part, features = _open(harness), features_of(harness.context.input, 2)
    (same, same_mask), (changed, changed_mask) = (_batch(part, rows) for rows in ([INSTRUCTION] * 2, [INSTRUCTION, OTHER]))
    with torch.no_grad():
        one, two = part(features, same, same_mask).tokens, part(features, changed, changed_mask).tokens
    require(difference(two[1], one[1]) > 0, f"{OTHER!r} instead of {INSTRUCTION!r} changes nothing of the row")
    distance = difference(two[0], one[0])
    require(distance <= TOLERANCE, f"another instruction of row 1 moves the tokens of row 0 by {distance:.2g}")


def padding_of_the_instruction_changes_nothing(component: Component) -> None:
    """What lies under a 0 of `instruction_mask` changes nothing, to 1e-5; also where a row has no instruction at all.

    Why: rows of a batch have instructions of different lengths, and a row that only shows an image has none. Else what a model
    sees in an image depends on the longest question that happens to stand in its batch.

    If it fails: hide padding in the attention by `instruction_mask`, and give an empty row a softmax that has something else to
    look at (the queries).
    """
    harness = ConnectorHarness(component)
    part, features = _open(harness), features_of(harness.context.input, 1)
    reasons = []
    nothing = torch.zeros(0, dtype=torch.long)  # a tokenizer may write a token of its own before no words: not these
    for words, ids in ((repr(INSTRUCTION), _ids(part, INSTRUCTION)), ("no instruction", nothing)):
        filler = _ids(part, OTHER)[:5]
        longer = torch.cat([ids, filler])[None]
        mask = (torch.arange(longer.shape[1]) < len(ids)).long()[None]
        other = torch.cat([ids, filler.flip(0)])[None]
        with torch.no_grad():
            padded = part(features, longer, mask).tokens
            again = part(features, other, mask).tokens
            alone = part(features, ids[None], torch.ones_like(ids)[None]).tokens if len(ids) else again
        if not torch.isfinite(padded).all():
            reasons.append(f"for {words} with padding behind it the tokens are not finite")
        for what, found in (("padding behind it", alone), ("other padding behind it", again)):
            distance = difference(padded, found)
            if not distance <= TOLERANCE:
                reasons.append(f"for {words}, {what} moves the tokens by {distance:.2g}")
    require(not reasons, "padding of the instruction is read", reasons)


def takes_every_id_of_its_tokenizer(component: Component) -> None:
    """Every id that its tokenizer has can stand in an instruction.

    Why: one embedding row too few is an index error in the middle of a run, or on a GPU a crash far from its cause.

    If it fails: make the embedding of words as large as the tokenizer, or refuse the tokenizer with an `AssemblyError`.
    """
    harness = ConnectorHarness(component)
    part = _open(harness)
    count = len(part.tokenizer)
    ids = torch.arange(-(-count // LENGTH) * LENGTH).clamp(max=count - 1).unflatten(0, (-1, LENGTH))  # [rows, LENGTH]
    features = features_of(harness.context.input, 1).tokens.expand(len(ids), -1, -1)
    shape = harness.context.input
    try:
        with torch.no_grad():
            tokens = part(VisionFeatures(features, shape.grid, shape.prefix), ids, torch.ones_like(ids)).tokens
    except IndexError as error:
        raise CheckFailure(f"the tokenizer has {count} ids, and not every one of them can be read: {failure(error)}") from error
    require(bool(torch.isfinite(tokens).all()), "for some ids the tokens are not finite")


CHECKS: tuple[CheckFunction, ...] = (
    reads_the_instruction,
    padding_of_the_instruction_changes_nothing,
    takes_every_id_of_its_tokenizer,
)


def _open(harness: ConnectorHarness) -> InstructedConnector:
    """The connector; raises `CheckFailure` for one that reads no instruction."""
    part = harness.build_open()
    if not isinstance(part, InstructedConnector):
        raise CheckFailure(f"{type(part).__name__} is no `vlmzoo_registry.InstructedConnector`: derive it from that class")
    return part


def _ids(part: InstructedConnector, words: str) -> Tensor:
    return torch.tensor(part.tokenizer(words)["input_ids"], dtype=torch.long)


def _batch(part: InstructedConnector, rows: list[str]) -> tuple[Tensor, Tensor]:
    """Instructions, padded on the right with 0, and their mask."""
    ids = [_ids(part, words) for words in rows]
    longest = max(len(row) for row in ids)
    padded = torch.stack([torch.cat([row, row.new_zeros(longest - len(row))]) for row in ids])
    mask = torch.stack([(torch.arange(longest) < len(row)).long() for row in ids])
    return padded, mask
