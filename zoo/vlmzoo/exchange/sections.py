"""Two `model:` sections side by side: what keeps a zoo model from being what a published class computes, option by option."""

from collections.abc import Mapping
from typing import Any

from vlmzoo.assemble import written_out
from vlmzoo.config import load_model
from vlmzoo.exchange.exchange import Pattern
from vlmzoo_registry import Catalogue

NOT_ARITHMETIC = ("name", "model", "dtype", "attention", "tokenizer", "mean", "std", "interpolation", "resize", "crop_fraction")
"""Options of a part that do not change what it computes: where it comes from, its types, and how its inputs are prepared."""

_ABSENT = "absent"
_WHOLE = "layouts/whole"


def spelt_out(section: Mapping[str, Any], catalogue: Catalogue | None = None) -> dict[str, Any]:
    """The section with every option written out, so that two of them can be compared."""
    return written_out(load_model({"template": "plain", **section}, catalogue=catalogue))


def component_differences(section: Mapping[str, Any], pattern: Pattern, name: str) -> list[str]:
    """Where a spelt out section has other components than the class called `name` is made of."""
    reasons = []
    if section["architecture"] != pattern.architecture:
        reasons.append(f"`architecture` is {section['architecture']}, and {name} is {pattern.architecture}")
    vision = section["vision"] if isinstance(section["vision"], list) else [section["vision"]]
    for key, own, published in (
        ("vision", tuple(part["name"] for part in vision), (pattern.vision,)),
        ("connector", tuple(part["name"] for part in section["connector"]), pattern.connector),
        ("layout", (_layout(section),), (pattern.layout or _WHOLE,)),
        ("language", (section["language"]["name"],), (pattern.language,)),
    ):
        if own != published:
            reasons.append(f"`{key}` is {_chain(own)}, and {name} has {_chain(published)}")
    return reasons


def option_differences(own: Mapping[str, Any], published: Mapping[str, Any], name: str) -> list[str]:
    """Where two spelt out sections of the same components differ in what they compute; `published` is that of `name`.

    A layout that the published one leaves out is none of the class's business.
    """
    reasons = []
    parts = [(key, own[key], published[key]) for key in ("vision", "layout", "language") if key in published]
    links = zip(own["connector"], published["connector"], strict=True)
    parts += [(f"connector.{index}", mine, theirs) for index, (mine, theirs) in enumerate(links)]
    for key, mine, theirs in parts:
        for path, here, there in _differing(_arithmetic(mine), _arithmetic(theirs), ""):
            reasons.append(f"`{key}` ({mine['name']}): `{path}` is {_brief(here)}, and {name} has {_brief(there)}")
    return reasons


def _arithmetic(part: Mapping[str, Any]) -> dict[str, Any]:
    options = {key: value for key, value in part.items() if key not in NOT_ARITHMETIC}
    # An encoder that is not told what to do with leading tokens drops them, where there are any.
    return {**options, "prefix": options["prefix"] or "drop"} if "prefix" in options else options


def _differing(one: Any, other: Any, path: str) -> list[tuple[str, Any, Any]]:
    """The innermost places at which two pieces of plain data differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            found
            for key in keys
            for found in _differing(one.get(key, _ABSENT), other.get(key, _ABSENT), f"{path}.{key}" if path else str(key))
        ]
    return [] if one == other else [(path, one, other)]


def _layout(section: Mapping[str, Any]) -> str:
    return str(section["layout"]["name"]) if "layout" in section else _WHOLE


def _chain(names: tuple[str, ...]) -> str:
    return " + ".join(f"`{name}`" for name in names)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
