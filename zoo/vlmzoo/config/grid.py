"""A grid: combinations of changes to one recipe, trained under the same budget and asked the same questions."""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, Any, ClassVar

from pydantic import Field

from vlmzoo.config.choice import Choice
from vlmzoo.config.section import Section
from vlmzoo.config.stage import Positive
from vlmzoo_registry.suggest import did_you_mean

Overrides = Annotated[tuple[str, ...], Field(strict=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


class BudgetConfig(Section):
    """How long every combination trains: exactly one measure, the same for all."""

    called: ClassVar[str] = "a budget"

    supervised_tokens: Positive | None = Field(
        default=None, description="Until so many tokens were supervised; the last batch is whole."
    )
    images: Positive | None = Field(default=None, description="Until so many images were shown; the last batch is whole.")
    steps: Positive | None = Field(default=None, description="So many optimizer steps.")
    seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="As many optimizer steps as take so long, measured on the first few."
    )

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """One measure."""
        given = [key for key in cls.model_fields if values.get(key) is not None]
        if not given:
            return [("supervised_tokens", f"is missing: give one of {', '.join(f'`{key}`' for key in cls.model_fields)}")]
        return [(key, f"stands beside `{given[0]}`: give one of them, not both") for key in given[1:]]

    @property
    def measure(self) -> str:
        """Which one it is."""
        return next(key for key in type(self).model_fields if getattr(self, key) is not None)


class EvaluateConfig(Section):
    """What every trained combination is asked, seeing and blind."""

    called: ClassVar[str] = "`evaluate`"

    data: Annotated[tuple[Choice, ...], Field(strict=False)] = Field(
        default=(), description="The datasets (`vlmzoo list --kind dataset`); or give `held_out`."
    )
    held_out: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = Field(
        default=(),
        description="The datasets of the last stage with other options, such as `{split: heldout}`; a list adds up, and what "
        "comes out equal counts once.",
    )
    metrics: Annotated[tuple[Choice, ...], Field(strict=False, min_length=1)] = Field(
        description="How answers are scored (`vlmzoo list --kind metric`); the first is the one that plots show."
    )
    max_new_tokens: Positive = Field(default=32, description="Where an answer is cut that does not end by itself.")
    limit: Positive | None = Field(default=None, description="Ask about so many samples, evenly taken from all.")
    batch_size: Positive = Field(default=32, description="Samples at a time; changes nothing but rounding.")

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """One source of questions, and metrics that can be told apart."""
        found = []
        data, held_out = values.get("data"), values.get("held_out")
        if not data and not held_out:
            found.append(("data", "is missing: give `data`, or `held_out` with the changes to the last stage's data"))
        if data and held_out:
            found.append(("held_out", "stands beside `data`: give one of them, not both"))
        metrics = values.get("metrics")
        names = [_component(metric) for metric in metrics] if isinstance(metrics, list | tuple) else []
        twice = sorted({name for name in names if name is not None and names.count(name) > 1})
        found += [("metrics", f"has `{name}` {names.count(name)} times: once is enough") for name in twice]
        return found


class GridConfig(Section):
    """A comparison: every product of the axes' values, with every seed, is one cell."""

    called: ClassVar[str] = "a grid"

    base: str | None = Field(
        default=None,
        description="The recipe that every cell changes: a path, relative to this file, or the name of one "
        "that ships (`vlmzoo recipes`); or give `quickstart`.",
    )
    quickstart: bool = Field(default=False, description="`true` for the quickstart's recipe as the base.")
    overrides: Overrides = Field(default=(), description="Changes for all cells, such as `stages.0.log_every=1`.")
    axes: dict[str, dict[str, Overrides]] = Field(
        description="What is compared: for each axis its values, for each value the changes that make it."
    )
    skip: Annotated[tuple[dict[str, str], ...], Field(strict=False)] = Field(
        default=(), description="Combinations to leave out, such as `{connector: mlp, architecture: cross_attention}`."
    )
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = Field(
        default=(0,), description="Each combination is trained once with each of these seeds."
    )
    budget: BudgetConfig = Field(description="How long every cell trains.")
    evaluate: EvaluateConfig = Field(description="What every cell is asked when it is trained.")

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[tuple[str, str]]:
        """One base; names that folders can have; nothing left out that is not there; seeds that differ."""
        found = []
        base, quickstart = values.get("base"), values.get("quickstart")
        if base is None and quickstart is not True:
            found.append(("base", "is missing: the path of a recipe, or `quickstart: true`"))
        if base is not None and quickstart is True:
            found.append(("quickstart", "stands beside `base`: give one of them, not both"))
        seeds = values.get("seeds")
        if isinstance(seeds, list | tuple):
            twice = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
            found += [("seeds", f"has {seed} more than once: the same seed gives the same run") for seed in twice]
        axes, skip = values.get("axes"), values.get("skip")
        if axes == {}:
            found.append(("axes", "is empty: name an axis, with the values that are compared"))
        elif isinstance(axes, dict) and all(isinstance(axis, dict) for axis in axes.values()):
            found += [("axes", f"has no value for `{axis}`: name what is compared") for axis in axes if not axes[axis]]
            found += [
                (
                    "axes",
                    f"has the name `{name}`: a name has at most 40 letters, digits, `_`, `.` and `-`, as folders are called so",
                )
                for name in dict.fromkeys([*axes, *(value for axis in axes.values() for value in axis)])
                if not _NAME.fullmatch(name)
            ]
            faults = list(_unknown(skip, axes))
            found += faults
            if not faults and axes and all(axes.values()) and not any(True for _ in _combinations(axes, skip or ())):
                found.append(("skip", "leaves out every combination"))
        return found

    def combinations(self) -> list[dict[str, str]]:
        """The products of the axes' values that are not left out, as axis: value; the last axis changes fastest."""
        return list(_combinations(self.axes, self.skip))


def _combinations(axes: Mapping[str, Mapping[str, Any]], skip: Any) -> Iterator[dict[str, str]]:
    for values in product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        if not any(partial.items() <= cell.items() for partial in skip):
            yield cell


def _unknown(skip: Any, axes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Entries of `skip` that name no axis, or none of its values."""
    for partial in skip if isinstance(skip, list | tuple) else ():
        if not isinstance(partial, Mapping):
            yield "skip", "must hold mappings from axis to value"
            continue
        if not partial:
            yield "skip", "has an empty entry, which would leave out everything"
        for axis, value in partial.items():
            if axis not in axes:
                yield "skip", f"names the axis `{axis}`, which there is not{did_you_mean(str(axis), axes)}"
            elif not isinstance(value, str):
                yield (
                    "skip",
                    f"names no value of axis `{axis}`: give one for each entry, `{{{axis}: {next(iter(axes[axis]), '...')}}}`",
                )
            elif value not in axes[axis]:
                yield "skip", f"names `{value}`, which axis `{axis}` does not have{did_you_mean(str(value), axes[axis])}"


def _component(metric: Any) -> str | None:
    """The name of a metric, resolved or as it was written."""
    if isinstance(metric, Choice):
        return metric.component.full_name
    name = metric.get("name") if isinstance(metric, Mapping) else metric
    return name if isinstance(name, str) else None
