"""What holds for every rule of a mixture: whole samples come out, the same every time, and no image is opened for it."""

from dataclasses import dataclass

from PIL import Image

from vlmzoo_registry.component import Component
from vlmzoo_registry.errors import DataError
from vlmzoo_registry.tasks import IMAGE, Dataset, Rule, Sample, Turn
from vlmzoo_registry.testing.check import CheckFunction, require
from vlmzoo_registry.testing.tiny import make, tiny_config


@dataclass(frozen=True)
class KitImage:
    """Stands for an image; a rule has no reason to open it."""

    number: int

    def __call__(self) -> Image.Image:
        """Never."""
        raise RuntimeError("the rule opened an image")


class KitRows(Dataset):
    """Rows in memory."""

    def __init__(self, *rows: tuple[int | None, tuple[str, ...]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """Questions and answers about an image, or about none."""
        image, words = self._rows[index]
        images = () if image is None else (KitImage(image),)
        roles = ("user", "assistant")
        turns = tuple(
            Turn(roles[number % 2], (f"{IMAGE}\n" if images and not number else "") + said)  # type: ignore[arg-type]
            for number, said in enumerate(words)
        )
        return Sample(id=f"row {index}", turns=turns, images=images, source=f"kit.jsonl:{index + 1}")


ROWS = {
    "conversations": KitRows(
        (0, ("What is it?", "A dog.", "Which colour?", "Brown.", "Is it asleep?", "No.")),
        (1, ("And this?", "A cat.")),
        (0, ("Where is it?", "In a garden.")),
        (None, ("Name three colours.", "Red, green and blue.", "One more.", "Yellow.")),
    ),
    "choices": KitRows(
        (0, ("Which animal?\nA. cat\nB. dog\nC. cow", "B")),
        (1, ("Which colour?\nA. red\nB. blue", "A")),
    ),
}
"""What a rule is applied to; it may refuse some of them, which were never meant for it, but not all."""


def gives_whole_samples(component: Component) -> None:
    """Of rows that the rule is for, it makes samples with an id of their own, a source, an answer and an image for each mark.

    Why: what a rule gives is learnt from as it is; a mark too many shifts all later images. And images are opened when a
    batch is made: a rule that opens them reads the whole data before the first step.

    If it fails: move the marks with the question that a conversation begins with; put something behind the id where one sample
    becomes several; refuse rows with a `DataError` that names `sample.source`.
    """
    reasons, taken = [], 0
    for name, rows in ROWS.items():
        try:
            ruled = _rule(component).apply(rows)
            samples = [ruled.rows[index] for index in range(len(ruled.rows))]
        except DataError as error:
            if "kit.jsonl:" not in str(error):
                reasons.append(f"{name}: the refusal names no row: {error}")
            continue
        taken += bool(samples)
        if not ruled.note.strip():
            reasons.append(f"{name}: the note is empty")
        if len({sample.id for sample in samples}) < len(samples):
            reasons.append(f"{name}: {len(samples)} samples have the ids {sorted({sample.id for sample in samples})}")
        for sample in samples:
            markers = sum(turn.text.count(IMAGE) for turn in sample.turns)
            if markers != len(sample.images):
                reasons.append(f"{name}: {sample.id}: {markers} `{IMAGE}` for {len(sample.images)} images")
            if not sample.source:
                reasons.append(f"{name}: {sample.id} has no source")
            if not any(turn.role == "assistant" and turn.text.strip() for turn in sample.turns):
                reasons.append(f"{name}: {sample.id}: the assistant says nothing")
    require(bool(taken) or bool(reasons), "the rule gives nothing of any rows", [f"rows: {', '.join(ROWS)}"])
    require(not reasons, "what it gives are no whole samples", reasons)


def gives_the_same_every_time(component: Component) -> None:
    """Two instances make the same of the same rows, and a sample is the same each time it is asked for.

    Why: a resumed run, and each process of one run, must see the same data.

    If it fails: draw by the samples' ids (a hash of them), never from a generator; keep no state between samples.
    """
    changed = []
    for name, rows in ROWS.items():
        try:
            seen = []
            for _ in range(2):
                given = _rule(component).apply(rows).rows
                seen += [[given[index] for index in range(len(given))] for _ in range(2)]
        except DataError:
            continue
        changed += [f"{name}: {again} instead of {seen[0]}" for again in seen[1:] if again != seen[0]]
    require(not changed, "samples that change", changed[:10])


CHECKS: tuple[CheckFunction, ...] = (gives_whole_samples, gives_the_same_every_time)


def _rule(component: Component) -> Rule:
    return make(component, Rule, tiny_config(component))  # type: ignore[type-abstract]
