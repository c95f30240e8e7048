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


FREE = frozenset({"workers", "log_every", "save_every", "save_minutes"})
"""What of a stage decides nothing that is learnt: how many processes read, when it is logged and saved. A run may go on with
others."""

_FREE_EARLIER = frozenset({"workers", "save_minutes"})
"""The same in versions that saved by steps only: their digests are of `log_every` and `save_every` too."""


def recipe_digest(recipe: Recipe) -> str:
    """The SHA-256 of a whole recipe but for what may change while it is trained (`FREE`), which its checkpoints record."""
    return _digest(recipe, FREE)


def earlier_digest(recipe: Recipe) -> str:
    """The digest that versions which saved by steps only record of this recipe."""
    return _digest(recipe, _FREE_EARLIER)


def trained_otherwise(there: dict[str, Any], wanted: dict[str, Any], field: str = "") -> list[str]:
    """Where two recipes, as plain data that stands in `field`, differ in what is learnt, as `field: there, here`.

    One that a version kept which saved by steps only must also agree in `log_every` and `save_every`, as must its digest.
    """
    free = FREE if all("save_minutes" in stage for stage in there["stages"]) else _FREE_EARLIER
    return list(differences(_without(there, free), _without(wanted, free), field))


def _digest(recipe: Recipe, free: frozenset[str]) -> str:
    return hashlib.sha256(json.dumps(_without(recipe.dump(), free), sort_keys=True).encode()).hexdigest()


def _without(recipe: dict[str, Any], free: frozenset[str]) -> dict[str, Any]:
    stages = [{key: value for key, value in stage.items() if key not in free} for stage in recipe["stages"]]
    return {**recipe, "stages": stages}


def claim(output: Path, recipe: Recipe, *, writes: bool) -> None:
    """Make the folder of a run, or find it to be one of this recipe, which is kept there as `recipe.json`.

    Raises `ResourceError` where the folder cannot be made, or holds what another recipe has trained, with what differs.
    """
    kept, wanted = output / RECIPE, recipe.dump()
    there = kept_recipe(output)
    differing = ["its recipe is not known"] if there is None else trained_otherwise(there, wanted)
    if differing:
        trained = sorted({path.parent.name for name in (CHECKPOINT, RESUME) for path in output.glob(f"*/{name}")})
        if trained:
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


def kept_recipe(output: Path) -> dict[str, Any] | None:
    """The recipe that the folder of a run keeps, as plain data; None where there is none that could be read."""
    try:
        found = json.loads((output / RECIPE).read_bytes())
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
