"""A list that is cut says by how much; one that fits is whole."""

import pytest

from vlmzoo.shortened import enumerated, shortened


@pytest.mark.parametrize(
    ("count", "lines", "words"),
    [(0, [], ""), (2, ["0", "1"], "0, 1"), (3, ["0", "1", "and 1 more"], "0, 1 and 1 more")],
)
def test_what_does_not_fit_is_counted(count: int, lines: list[str], words: str) -> None:
    names = [str(number) for number in range(count)]
    assert shortened(names, 2) == lines
    assert enumerated(names, 2) == words


def test_ten_reasons_fit() -> None:
    reasons = [str(number) for number in range(10)]
    assert shortened(reasons) == reasons
    assert shortened([*reasons, "x", "y"]) == [*reasons, "and 2 more"]
