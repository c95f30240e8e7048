"""How long each sample of a stage is, before any of it is trained on: what orders that look at lengths are made from.

No pixel is decoded for it: how an image is cut depends on its size alone, which stands at the head of its file.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vlmzoo.data.collate import Collator
from vlmzoo.data.piece_limit import beyond_a_piece, views_of
from vlmzoo.durable import replace_file
from vlmzoo_registry.errors import DataError, ResourceError
from vlmzoo_registry.tasks import Sample

LENGTHS = "lengths.json"
"""The file beside a stage's checkpoint in which they are kept."""

_SHOWN = 20


@runtime_checkable
class Rows(Protocol):
    """Samples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True)
class Lengths:
    """Sample by sample: the `tokens` of its row, image slots included, and the `images` that the encoder sees.

    An image that a layout cuts counts as many times as it has views. An objective that does not keep the lengths of rows
    (`Objective.keeps_length`) has those of the first epoch here.
    """

    tokens: tuple[int, ...]
    images: tuple[int, ...]

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.tokens)

    def digest(self) -> str:
        """A digest of all of them: orders made from other lengths are other orders."""
        return hashlib.sha256(json.dumps([self.tokens, self.images]).encode()).hexdigest()


def sample_lengths(
    rows: Rows,
    collate: Collator,
    *,
    kept: Path | None = None,
    told: Any = None,
    advance: Callable[[], None] | None = None,
    share: tuple[int, int] = (0, 1),
    exchange: Callable[[Any], list[Any]] = lambda mine: [mine],
) -> Lengths:
    """The lengths of all samples, as the collator will make rows of them.

    `kept` is a file in which they are looked up and then kept. It is read only where every row, the tokenizer and what is
    `told` (plain data that says what else the rows depend on: parts, template, objective) are as they were; what is in it
    otherwise is written anew. `advance` is called once for each sample that is measured here.

    Of several processes each measures a `share` (which one it is, of how many), and the first reads and writes the file;
    `exchange` gives every process what each of them brings.

    Raises `DataError` with the rows that cannot be used (the first 20), `ResourceError` where the file cannot be written.
    """
    process, processes = share
    key = None if kept is None else _key(rows, collate, told)
    found: Lengths | None = exchange(_read(kept, key) if kept is not None and process == 0 else None)[0]
    if found is not None and len(found) == len(rows):
        return found
    measured: list[tuple[int, int, int]] = []
    reasons: list[tuple[int, str]] = []
    for index in range(process, len(rows), processes):
        try:
            measured.append((index, *_measured(rows[index], collate)))
        except DataError as error:
            reasons += [(index, reason) for reason in (error.message, *error.reasons)]
            if len(reasons) >= _SHOWN:
                break
        if advance is not None:
            advance()
    brought = exchange((measured, reasons))
    said = [reason for _, reason in sorted(chain.from_iterable(theirs for _, theirs in brought), key=itemgetter(0))]
    if said:
        raise DataError("rows cannot be measured (`vlmzoo labels RECIPE --check` lists all); they begin with:", said[:_SHOWN])
    _, tokens, images = zip(*sorted(chain.from_iterable(theirs for theirs, _ in brought)), strict=True)
    lengths = Lengths(tokens, images)
    if kept is not None and process == 0:
        try:
            replace_file(kept, json.dumps({"key": key, "tokens": lengths.tokens, "images": lengths.images}))
        except OSError as error:
            raise ResourceError(f"`{kept}` could not be written ({error})") from error
    return lengths


def _measured(sample: Sample, collate: Collator) -> tuple[int, int]:
    """The tokens and the views of a sample."""
    return len(collate.encode(sample).input_ids), views_of(sample, collate)


def refuse_longer(lengths: Lengths, rows: Rows, *, max_tokens: int | None, max_images: int | None) -> None:
    """Raise `DataError` naming the samples that are longer than a piece may be."""
    over = [
        (index, reason)
        for index, (tokens, views) in enumerate(zip(lengths.tokens, lengths.images, strict=True))
        for reason in beyond_a_piece(tokens, views, max_tokens=max_tokens, max_images=max_images)
    ]
    if over:
        found = len({index for index, _ in over})
        more = [f"and {len(over) - _SHOWN} more"] if len(over) > _SHOWN else []
        images = "" if max_images is None else f" and {max(lengths.images)} images"
        raise DataError(
            f"{found} samples are longer than a piece may be: raise the budget to at least {max(lengths.tokens)} tokens"
            f"{images}, or shorten or drop these rows:",
            [*(f"{rows[index].source}: {why}" for index, why in over[:_SHOWN]), *more],
        )


def _key(rows: Rows, collate: Collator, told: Any) -> str:
    """A digest of all that rows are made from."""
    said: list[Any] = [told, collate.tokenizer.backend_tokenizer.to_str(), collate.image_token.slots, collate.max_length]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for index in range(len(rows)):
        row = rows[index]
        turns = [[turn.role, turn.text] for turn in row.turns]
        digest.update(json.dumps([row.id, turns, len(row.images), row.label]).encode())
    return digest.hexdigest()


def _read(path: Path, key: str | None) -> Lengths | None:
    """What is kept under this key; None where there is nothing of it."""
    try:
        content = json.loads(path.read_bytes())
        if content["key"] != key:
            return None
        return Lengths(_counts(content["tokens"]), _counts(content["images"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _counts(values: Sequence[Any]) -> tuple[int, ...]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("not counts")
    return tuple(values)
