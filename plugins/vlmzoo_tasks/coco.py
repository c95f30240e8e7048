"""How COCO's files are read: one JSON object whose lists are its tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

from vlmzoo_registry.errors import DataError
from vlmzoo_tasks.rows import read_text, whole_text


def read_tables(path: Path, tables: Sequence[str], called: str) -> dict[str, list[Any]]:
    """The lists of a file that has these. Raises `DataError` where it is no such file; `called` is the format's name."""
    text = read_text(path)
    try:
        content = whole_text(json.loads(text), text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"`{path}` is not JSON ({error}): correct it, or download it again") from error
    reasons = [
        f"`{key}` must be a list (is {'missing' if not isinstance(content, dict) or key not in content else 'of another type'})"
        for key in tables
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if reasons:
        raise DataError(f"`{path}` is not in {called}:", reasons)
    return {key: content[key] for key in tables}


def whole_number(value: Any) -> TypeGuard[int]:
    """Whether an id of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
