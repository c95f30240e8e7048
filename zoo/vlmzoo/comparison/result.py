"""What came of a comparison: each cell, and each combination over its seeds, from the files that the cells left."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import stdev
from typing import Any


@dataclass(frozen=True)
class Measure:
    """The mean over the seeds, and the sample's standard deviation (None for one seed)."""

    mean: float
    spread: float | None
    n: int


@dataclass(frozen=True)
class CellResult:
    """A cell that was trained and asked; `seconds` are those inside of optimizer steps, `peak_memory` is in bytes.

    `scores`, `blind_scores` and `frequent_scores` (of the answer most often right in training, which needs no model) are by
    metric: mean, standard error over the questions, number of questions.
    """

    combination: str
    seed: int
    values: dict[str, str]
    image_tokens: int
    parameters: int
    trained_parameters: int
    steps: int
    supervised_tokens: int
    images: int
    seconds: float
    seconds_per_step: float
    peak_memory: int
    loss: float
    scores: dict[str, dict[str, Any]]
    blind_loss: float
    blind_scores: dict[str, dict[str, Any]]
    frequent_scores: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class CellFailure:
    """A cell that has no result, and why."""

    combination: str
    seed: int
    values: dict[str, str]
    message: str
    exit_code: int


@dataclass(frozen=True)
class Aggregate:
    """A combination over those of its seeds that have a result; without any, its measures are empty."""

    combination: str
    values: dict[str, str]
    seeds: int
    measures: dict[str, Measure]
    scores: dict[str, Measure]
    blind_scores: dict[str, Measure]


@dataclass(frozen=True)
class Comparison:
    """A comparison; `grid` is the grid as plain data, `metrics` the names of its metrics in order."""

    grid: dict[str, Any]
    versions: dict[str, str]
    metrics: tuple[str, ...]
    combinations: tuple[Aggregate, ...]
    cells: tuple[CellResult, ...]
    failures: tuple[CellFailure, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data: what `comparison.json` holds."""
        return {"format": 1, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Comparison":
        """What `to_dict` gave, also as JSON."""

        def measures(of: Mapping[str, Any]) -> dict[str, Measure]:
            return {name: Measure(**numbers) for name, numbers in of.items()}

        return cls(
            grid=data["grid"],
            versions=data["versions"],
            metrics=tuple(data["metrics"]),
            combinations=tuple(
                Aggregate(**{**row, **{key: measures(row[key]) for key in ("measures", "scores", "blind_scores")}})
                for row in data["combinations"]
            ),
            cells=tuple(CellResult(**cell) for cell in data["cells"]),
            failures=tuple(CellFailure(**failed) for failed in data["failures"]),
        )


MEASURES = (
    "image_tokens",
    "parameters",
    "trained_parameters",
    "steps",
    "supervised_tokens",
    "images",
    "seconds",
    "seconds_per_step",
    "peak_memory",
    "loss",
    "blind_loss",
)
"""The numbers of a cell that are averaged over seeds, besides the scores."""


def cell_result(combination: str, seed: int, values: Mapping[str, str], told: Mapping[str, Any]) -> CellResult:
    """A cell, from its `result.json`."""
    same = ("image_tokens", "parameters", "trained_parameters", "steps", "supervised_tokens", "images", "seconds")
    return CellResult(
        combination=combination,
        seed=seed,
        values=dict(values),
        **{key: told[key] for key in same},
        seconds_per_step=told["seconds_per_step"],
        peak_memory=told["peak_memory"],
        loss=told["seeing"]["loss"],
        scores=told["seeing"]["scores"],
        blind_loss=told["blind"]["loss"],
        blind_scores=told["blind"]["scores"],
        frequent_scores=told["frequent"],
    )


def aggregate(combination: str, values: Mapping[str, str], cells: Sequence[CellResult], metrics: Sequence[str]) -> Aggregate:
    """The means and spreads over the cells of one combination."""
    return Aggregate(
        combination=combination,
        values=dict(values),
        seeds=len(cells),
        measures={key: measure([getattr(cell, key) for cell in cells]) for key in MEASURES if cells},
        scores={name: measure([cell.scores[name]["mean"] for cell in cells]) for name in metrics if cells},
        blind_scores={name: measure([cell.blind_scores[name]["mean"] for cell in cells]) for name in metrics if cells},
    )


def measure(numbers: Sequence[float]) -> Measure:
    """Mean and spread."""
    return Measure(sum(numbers) / len(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers))
