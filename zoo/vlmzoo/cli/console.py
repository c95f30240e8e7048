"""How the commands print: tables for people, JSON for programs, both on stdout.

Styles are bold, dim and the terminal's own red, green and yellow, which read on dark and on light grounds.
"""

import json
from typing import Any

from rich.console import Console


def console() -> Console:
    """A console on stdout that colours nothing by itself."""
    return Console(highlight=False, emoji=False, markup=False)


def print_json(data: Any) -> None:
    """Indented JSON, with nothing around it."""
    print(json.dumps(data, indent=2, ensure_ascii=False))
