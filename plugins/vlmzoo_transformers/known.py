"""Architectures of a few pretrained models, written down here so that a recipe that names them can be planned anywhere.

Figures only (`architectures/<organisation>--<name>.json`: the fields of `config.json` and of the preprocessor file). Whoever
loads the weights reads the model's own files; these are for plans on machines that have none.
"""

import json
import warnings
from pathlib import Path
from typing import Any

from vlmzoo_registry.notes import Note

FOLDER = Path(__file__).parent / "architectures"


def known_architecture(model: str) -> dict[str, Any] | None:
    """`{config[, image_processor]}` of a pretrained id, with a note that it is from here; None where it is not known."""
    file = FOLDER / f"{model.replace('/', '--')}.json"
    if not file.is_file():
        return None
    warnings.warn(
        Note(f"`{model}` is not on this machine: its architecture is described from the figures that come with vlmzoo"),
        stacklevel=2,
    )
    described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return described
