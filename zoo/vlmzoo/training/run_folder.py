"""The folder of a run: one recipe each, kept beside what it made, so that nothing is trained over or mixed up."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmzoo.config import Recipe
from vlmzoo.durable import replace_json
from vlmzoo.shortened import shortened
from vlmzoo_registry import ResourceError

RECIPE = "recipe.json"
CHECKPOINT, RESUME = "checkpoint", "resume"

_ABSENT = object()


def recipe_digest(recipe: Recipe) -> str:
    """The SHA-256 of a whole recipe but for its `workers`, which its checkpoints record."""
    return hashlib.sha256(json.dumps(_learnt(recipe.model_dump(mode="json")), sort_keys=True).encode()).hexdigest()


def _learnt(recipe: dict[str, Any]) -> dict[str, Any]:
    """What of a recipe decides about what is learnt: not how many processes read, so a run may go on with fewer of them."""
    stages = [{key: value for key, value in stage.items() if key != "workers"} for stage in recipe["stages"]]
    return {**recipe, "stages": stages}


def claim(output: Path, recipe: Recipe, *, writes: bool) -> None:
    """Make the folder of a run, or find it to be one of this recipe, which is kept there as `recipe.json`.

    Raises `ResourceError` where the folder cannot be made, or holds what another recipe has trained, with what differs.
    """
    kept, wanted = output / RECIPE, recipe.dump()
    there = _read(kept)
    if there is None or _learnt(there) != _learnt(wanted):
        trained = sorted({path.parent.name for name in (CHECKPOINT, RESUME) for path in output.glob(f"*/{name}")})
        if trained:
            differing = ["its recipe is not known"] if there is None else list(differences(_learnt(there), _learnt(wanted)))
            raise ResourceError(
                f"`{output}` holds what another recipe has trained ({', '.join(trained)}): choose another `--output`, go back "
                "to that recipe, or remove the folder",
                shortened(differing),
            )
    if not writes:
        return
    try:
        for stage in recipe.stages:
            (output / stage.name).mkdir(parents=True, exist_ok=True)
        if there != wanted:
            replace_json(kept, wanted)
    except OSError as error:
        raise ResourceError(f"`{output}` cannot be written ({error}): choose another `--output`") from error


def _read(path: Path) -> dict[str, Any] | None:
    """The recipe that is kept; None where there is none that could be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    stages = found.get("stages") if isinstance(found, dict) else None
    return found if isinstance(stages, list) and all(isinstance(stage, dict) for stage in stages) else None


def differences(there: Any, here: Any, field: str = "") -> Iterator[str]:
    """Where two recipes differ, as `field: there, here`."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from differences(there.get(key, _ABSENT), here.get(key, _ABSENT), f"{field}.{key}" if field else key)
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for index, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from differences(one, other, f"{field}.{index}")
    elif there != here:
        yield f"`{field}`: {_shown(there)} there, {_shown(here)} in this recipe"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."
