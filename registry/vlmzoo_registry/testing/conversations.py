"""Conversations for the checks of templates and objectives: with and without images, one exchange and several."""

from vlmzoo_registry.tasks import IMAGE, Sample, Turn

CONVERSATIONS: dict[str, tuple[Turn, ...]] = {
    "an image and its caption": (Turn("user", IMAGE), Turn("assistant", "a small red bird")),
    "a question about an image": (Turn("user", f"{IMAGE}\nWhat is this?"), Turn("assistant", "It is a bird.")),
    "two images": (Turn("user", f"{IMAGE} and {IMAGE}: compare."), Turn("assistant", "Both are birds.")),
    "no image": (Turn("user", "Name a colour."), Turn("assistant", "Rot, oder é.")),
    "two exchanges": (
        Turn("user", f"{IMAGE}\nWhat is this?"),
        Turn("assistant", "It is a bird."),
        Turn("user", "Which colour?"),
        Turn("assistant", "It is red."),
    ),
    "a system's turn first": (
        Turn("system", "Answer briefly."),
        Turn("user", f"{IMAGE}\nWhat is this?"),
        Turn("assistant", "A bird."),
    ),
}


def as_sample(name: str, turns: tuple[Turn, ...]) -> Sample:
    """A conversation as a row of data; its images are never opened."""
    markers = sum(turn.text.count(IMAGE) for turn in turns)

    def unopened() -> object:
        raise RuntimeError("an objective does not open images")

    return Sample(id=name, turns=turns, images=(unopened,) * markers, source=f"kit.jsonl:{name}")  # type: ignore[arg-type]
