"""Which versions made a model: recorded in logs and reports, so that a figure can be traced to them."""

import platform
from importlib.metadata import version

from vlmzoo.model.vlm import VLM

ALWAYS = ("vlmzoo", "torch", "transformers", "accelerate")


def versions(model: VLM) -> dict[str, str]:
    """Those of Python, of the frameworks that every model runs on, and of the distributions its components come from."""
    made_by = {
        record.distribution: record.version
        for records in model.components.values()
        for record in records
        if record.distribution not in ALWAYS
    }
    return {"python": platform.python_version(), **{name: version(name) for name in ALWAYS}, **made_by}
