"""Pretrained weights into a vision tower, from its own checkpoint or out of a whole model's.

transformers fills what it does not find with random numbers and a table of warnings; here that is an error.
"""

import re
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from vlmzoo_registry import CheckpointError

_SHOWN = 5


def load_tower(
    made: type[PreTrainedModel], model: str, config: PreTrainedConfig, *, unused: frozenset[str], **options: Any
) -> PreTrainedModel:
    """A tower with the weights of `model`, a pretrained id or a folder.

    In the checkpoint of a whole model the tower's tensors stand under a prefix (`model.vision_tower.`), which is found. Raises
    `CheckpointError` where a tensor is missing that an output depends on; `unused` names those on which none does.
    """
    tower, missing, left = _load(made, model, config, options)
    if missing - unused:
        prefix = _prefix(missing - unused, left)
        if prefix is not None:
            tower, missing, left = _load(made, model, config, options | {"key_mapping": {f"^{re.escape(prefix)}": ""}})
    lacking = sorted(missing - unused)
    if lacking:
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        raise CheckpointError(
            f"`{model}` has no weights for {len(lacking)} of the {len(tower.state_dict())} tensors of `{made.__name__}`: "
            f"{', '.join(f'`{name}`' for name in lacking[:_SHOWN])}{more}. Give the checkpoint of the tower, or of a model "
            "that transformers itself loads with this tower"
        )
    return tower


def _load(
    made: type[PreTrainedModel], model: str, config: PreTrainedConfig, options: dict[str, Any]
) -> tuple[PreTrainedModel, set[str], set[str]]:
    """The tower, its tensors that were not found, and the checkpoint's tensors that were not taken."""
    tower, told = made.from_pretrained(model, config=config, output_loading_info=True, **options)
    return tower, set(told["missing_keys"]), set(told["unexpected_keys"])


def _prefix(missing: set[str], left: set[str]) -> str | None:
    """What stands before the names of all missing tensors in the checkpoint; None where nothing does."""
    name = min(missing)
    candidates = {found.removesuffix(name) for found in left if found.endswith(f".{name}")}
    fitting = [prefix for prefix in candidates if all(f"{prefix}{other}" in left for other in missing)]
    return min(fitting, key=len) if fitting else None
