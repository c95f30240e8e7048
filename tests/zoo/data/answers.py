"""Answers of any characters, for tests that ask whether all of each is learnt: the same ones in every run."""

import random
import unicodedata
from functools import cache

PIECES = [
    "a",
    "red",
    " car",
    "  ",
    "house 😀",
    "\n",
    "👩‍🚀",
    "123",
    "?",
    "…",
    "the",
    " über",
    "Größe",
    "'s",
    "\t",
    "x",
    ".",
    "日本",
    ":)",
]
"""What tokenizers cut in different ways: words with a space before them or none, spaces, marks, characters of many bytes."""


def of_pieces(count: int, seed: int = 0) -> list[str]:
    """Answers put together from `PIECES`, stripped, none empty."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(1, 9))).strip() for _ in range(2 * count)]
    return [text for text in texts if text][:count]


def of_any_characters(count: int, seed: int = 0) -> list[str]:
    """Answers of characters from all of Unicode, a half of them from its first pages; stripped, none empty."""
    draw = random.Random(seed)
    texts = ["".join(_character(draw) for _ in range(draw.randint(1, 12))).strip() for _ in range(2 * count)]
    return [text for text in texts if text][:count]


def _character(draw: random.Random) -> str:
    near, all_of_them = _alphabet()
    return draw.choice(near if draw.random() < 0.5 else all_of_them)


@cache
def _alphabet() -> tuple[str, str]:
    """Characters that a text may hold: no control codes, no surrogates, none that is not assigned."""
    every = [chr(code) for code in range(32, 0x20000) if unicodedata.category(chr(code)) not in ("Cs", "Cc", "Cn", "Co")]
    return "".join(character for character in every if ord(character) < 0x250), "".join(every)
