"""Long lists, cut for the reader: the first of them, and how many more there are."""

from collections.abc import Sequence


def shortened(reasons: Sequence[str], limit: int = 10) -> list[str]:
    """The first `limit` reasons, and a last one that counts the others where there are any."""
    rest = len(reasons) - limit
    return [*reasons[:limit], *([f"and {rest} more"] if rest > 0 else [])]


def enumerated(names: Sequence[str], limit: int) -> str:
    """The first `limit` names with commas between them, and how many more there are."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
