"""Assemble, train and compare vision-language models from parts found through entry points.

Importing this imports no framework; names are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlmzoo.assemble import build
    from vlmzoo.catalogue import components
    from vlmzoo.checkpoint import load, load_part
    from vlmzoo.comparison.compare import compare
    from vlmzoo.evaluation import evaluate
    from vlmzoo.exchange.export import to_transformers
    from vlmzoo.exchange.remix import remix
    from vlmzoo.exchange.take_apart import from_transformers
    from vlmzoo.planning import plan
    from vlmzoo.training.train import train

_LAZY = {
    "build": "vlmzoo.assemble",
    "compare": "vlmzoo.comparison.compare",
    "components": "vlmzoo.catalogue",
    "evaluate": "vlmzoo.evaluation",
    "from_transformers": "vlmzoo.exchange.take_apart",
    "load": "vlmzoo.checkpoint",
    "load_part": "vlmzoo.checkpoint",
    "plan": "vlmzoo.planning",
    "remix": "vlmzoo.exchange.remix",
    "to_transformers": "vlmzoo.exchange.export",
    "train": "vlmzoo.training.train",
}

__all__ = [
    "build",
    "compare",
    "components",
    "evaluate",
    "from_transformers",
    "load",
    "load_part",
    "plan",
    "remix",
    "to_transformers",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'vlmzoo' has no attribute {name!r}; it has {', '.join(__all__)}")
    from vlmzoo.tested_versions import with_version_notes

    # The copy in this module alone notes versions; pickled by its name here, it is found again.
    value = with_version_notes(getattr(import_module(_LAZY[name]), name))
    value.__module__ = __name__
    globals()[name] = value
    return value
