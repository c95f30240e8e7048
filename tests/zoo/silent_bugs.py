"""What the tests of the field's silent bugs share: rows, what makes batches of them, and checks that must fail on a bug."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from PIL import Image

from vlmzoo.config import load_choice
from vlmzoo.data import Collator
from vlmzoo.data.truncation import LengthRule
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import Objective, Sample, Template, Turn

COLOURS = ("red", "green", "blue", "white")


def collator(
    model: VLM, objective: str = "instruct", template: str = "vicuna_v1", length: LengthRule | None = None, **options: Any
) -> Collator:
    """`options` are those of the template."""
    tokenizer = model.processor.tokenizer
    return Collator(
        objective=load_choice("objective", {"name": objective}).make(Objective).bind(tokenizer),
        template=load_choice("template", {"name": template, **options}).make(Template).bind(tokenizer),
        tokenizer=tokenizer,
        image_token=model.processor.image_token,
        images=model.processor.images,
        max_length=5000,
        length=length,
    )


def sample(*answers: str, images: int = 1, name: str = "1") -> Sample:
    """A conversation with these answers, whose images stand in the first question."""
    asked = ["<image>" * images + "what?", *(f"and {number}?" for number in range(1, len(answers)))]
    turns = [turn for pair in zip(asked, answers, strict=True) for turn in (Turn("user", pair[0]), Turn("assistant", pair[1]))]
    opened = tuple(partial(Image.new, "RGB", (32, 32), COLOURS[number]) for number in range(images))
    return Sample(name, tuple(turns), opened, f"rows.jsonl:{name}")


def catches(check: Callable[..., None], *planted: Any) -> None:
    """The check fails on the planted bug."""
    with pytest.raises(AssertionError):
        check(*planted)
