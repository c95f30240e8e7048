"""From a grid to its cells: every recipe resolved, planned and counted before the first one trains.

What is wrong with any cell is said here, all of it at once, and not after hours of training.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmzoo.comparison.budget import Counts, Length, hides_at_random, length_of
from vlmzoo.config import Choice, GridConfig, Recipe, StageConfig, load_recipe
from vlmzoo.config.node import Field, Node, quotable
from vlmzoo.config.shipped import shipped_recipes
from vlmzoo.data import Collator
from vlmzoo.data.lengths import Lengths, sample_lengths
from vlmzoo.evaluation import evenly, other_images
from vlmzoo.planning import Plan, plan
from vlmzoo.shortened import enumerated
from vlmzoo.training.batching import refuse_wider, stage_stream
from vlmzoo.training.samples import evaluation_collator, make_collator, stage_samples
from vlmzoo.without_values import without_values
from vlmzoo_registry import ConfigError, DataError, VlmzooError


@dataclass(frozen=True)
class Combination:
    """One product of the axes' values; `recipe` is that of the first seed."""

    values: dict[str, str]
    recipe: Recipe
    plan: Plan
    questions: tuple[Choice, ...]

    @property
    def name(self) -> str:
        """The values, in the order of the axes."""
        return "+".join(self.values.values())


@dataclass(frozen=True)
class Cell:
    """A combination with a seed: what one process trains and asks.

    `recipe` has the length that the budget gives it; with a budget of `seconds` it is found when the cell begins, and
    `length` is None.
    """

    combination: Combination
    seed: int
    recipe: Recipe
    length: Length | None
    seconds: float | None

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.combination.name}-seed{self.seed}"

    def task(self, grid: GridConfig) -> dict[str, Any]:
        """What its process is told, as plain data."""
        asked = grid.evaluate
        return {
            "format": 1,
            "name": self.name,
            "recipe": self.recipe.dump(),
            "seconds": self.seconds,
            "evaluate": {
                "data": [choice.dump() for choice in self.combination.questions],
                "metrics": [choice.dump() for choice in asked.metrics],
                "max_new_tokens": asked.max_new_tokens,
                "limit": asked.limit,
                "batch_size": asked.batch_size,
            },
        }


def combinations_of(grid: GridConfig, root: Node, say: Callable[[str], None]) -> tuple[Combination, ...]:
    """The combinations of a grid, each loaded and planned.

    Raises `ConfigError` with every reason against every combination, naming the lines of the grid that make it.
    """
    base, placed = _base(grid, root, say)
    found = []
    reasons: dict[str, list[str]] = {}
    every = grid.combinations()
    for values in every:
        changes = [(text, _place(root, ("overrides", index))) for index, text in enumerate(grid.overrides)]
        for axis, value in values.items():
            changes += [(text, _place(root, ("axes", axis, value, i))) for i, text in enumerate(grid.axes[axis][value])]
        texts = [*placed, *(text for text, _ in changes), f"seed={grid.seeds[0]}"]
        try:
            recipe = load_recipe(base, texts)
            combination = Combination(values, recipe, plan(recipe), _questions(grid, root, base, texts, recipe, changes))
        except VlmzooError as error:
            for reason in error.reasons or (error.message,):
                reasons.setdefault(_located(reason, changes), []).append("+".join(values.values()))
        else:
            found.append(combination)
    if reasons:
        where = {reason: _where(names, len(every)) for reason, names in reasons.items()}
        raise ConfigError("the grid has cells that cannot be trained", [f"{where[reason]}: {reason}" for reason in reasons])
    return tuple(found)


def cells_of(grid: GridConfig, combinations: Sequence[Combination], say: Callable[[str], None]) -> tuple[Cell, ...]:
    """Every combination with every seed, as long as the budget says, with its rows and its questions looked at.

    Raises `DataError` with every reason why a cell cannot be trained or asked.
    """
    say("Counting what the budget is worth ...")
    cells: list[Cell] = []
    reasons: dict[str, list[str]] = {}
    known: dict[str, Counts] = {}
    measured: dict[str, Lengths] = {}
    for combination in combinations:
        try:
            model, stage = without_values(combination.recipe.model), combination.recipe.stages[-1]
            _check_questions(grid, combination, evaluation_collator(model, stage))
            for seed in grid.seeds:
                cells.append(_cell(grid, combination, seed, make_collator(model, stage, seed=seed), known, measured))
        except VlmzooError as error:
            for reason in error.reasons or (error.message,):
                reasons.setdefault(reason, []).append(combination.name)
    if reasons:
        where = {reason: _where(names, len(combinations)) for reason, names in reasons.items()}
        raise DataError("the grid has cells that cannot be trained", [f"{where[reason]}: {reason}" for reason in reasons])
    return tuple(cells)


def _cell(
    grid: GridConfig,
    combination: Combination,
    seed: int,
    collate: Collator,
    known: dict[str, Counts],
    measured: dict[str, Lengths],
) -> Cell:
    recipe = combination.recipe.model_copy(update={"seed": seed})
    stage = recipe.stages[-1]
    if grid.budget.seconds is not None:
        return Cell(combination, seed, recipe, None, grid.budget.seconds)
    counts = _counts(known, _counted_alike(combination, seed, collate), stage, collate)
    lengths = None
    if stage.batching.by_length:  # rows with images are as long as the other parts make them
        refuse_wider(stage, collate, processes=1)
        if combination.name not in measured:
            measured[combination.name] = sample_lengths(counts.samples, collate)
        lengths = measured[combination.name]
    stream = stage_stream(stage, counts.samples, collate, lengths, seed=seed)
    length = length_of(counts, stream, grid.budget)
    return Cell(combination, seed, with_steps(recipe, length.steps), length, None)


def _counted_alike(combination: Combination, seed: int, collate: Collator) -> str:
    """Cells of which this is the same share a count, whatever other parts they have.

    What a sample counts depends on the words alone where every row is learnt whole; which rows are cut or left out depends on
    all of a combination, and whether one is refused on the tokens of its images too.
    """
    model, stage = combination.recipe.model, combination.recipe.stages[-1]
    template = stage.template or model.template
    words: list[Any] = [model.language.dump(), template.dump(), stage.objective.dump(), [data.dump() for data in stage.data]]
    words += [stage.max_length, collate.image_token.slots, None if model.layout is None else model.dump()]
    if hides_at_random(collate.objective):
        words.append({"seed": seed, "stage": stage.name})
    if stage.too_long == "cut" or stage.on_bad_row == "skip":
        words.append(combination.name)
    return json.dumps(words)


def _counts(known: dict[str, Counts], key: str, stage: StageConfig, collate: Collator) -> Counts:
    if key not in known:
        known[key] = Counts(stage_samples(stage, collate), collate)
    return known[key]


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with another length of its last stage; the stages before it prepare, and stay as they are."""
    *before, last = recipe.stages
    last = last.model_copy(update={"steps": steps, "epochs": None})
    return recipe.model_copy(update={"stages": (*before, last)})


def _base(grid: GridConfig, root: Node, say: Callable[[str], None]) -> tuple[Path, list[str]]:
    """The recipe that every cell changes, and what is said of this machine first."""
    if grid.base is not None:
        node, _ = root.nearest(("base",))
        beside = node.place.folder / grid.base
        # A recipe that ships is named as on the command line: without a path, where there is no file of that name.
        return (Path(grid.base) if grid.base in shipped_recipes() and not beside.exists() else beside), []
    from vlmzoo.quickstart.assets import prepare
    from vlmzoo.quickstart.run import RECIPE, placed

    return RECIPE, placed(prepare(say))


def _questions(
    grid: GridConfig, root: Node, base: Path, texts: Sequence[str], recipe: Recipe, changes: list[tuple[str, str]]
) -> tuple[Choice, ...]:
    """The datasets that the trained cell is asked about: those of the grid, or those of its last stage with other options."""
    if grid.evaluate.data:
        return grid.evaluate.data
    last = len(recipe.stages) - 1
    found: list[Choice] = []
    for number, options in enumerate(grid.evaluate.held_out):
        more = []
        for key, value in options.items():
            place = _place(root, ("evaluate", "held_out", number, key))
            for index in range(len(recipe.stages[last].data)):
                more.append(f"stages.{last}.data.{index}.{key}={json.dumps(value, ensure_ascii=False)}")
                changes.append((more[-1], place))
        found += load_recipe(base, [*texts, *more]).stages[last].data
    # Two datasets of the stage may differ in nothing but what was changed: what is left of them is asked about once.
    return tuple({json.dumps(choice.dump()): choice for choice in found}.values())


def _check_questions(grid: GridConfig, combination: Combination, collate: Collator) -> None:
    """Raise what evaluation would raise after the training."""
    stage = combination.recipe.stages[-1].model_copy(update={"data": combination.questions})
    samples = stage_samples(stage)
    asked = [samples[index] for index in evenly(len(samples), grid.evaluate.limit)]
    reasons: list[str] = []
    for sample in asked:
        try:
            collate.encode(sample)
        except DataError as error:
            reasons += error.reasons or [error.message]
    if reasons:
        raise DataError("questions that cannot be asked", reasons)
    other_images(asked)


def _place(root: Node, field: Field) -> str:
    node, _ = root.nearest(field)
    return str(node.place)


def _located(reason: str, changes: Sequence[tuple[str, str]]) -> str:
    """A reason against an override, with the line of the grid where that stands."""
    for text, place in changes:
        if place and reason.startswith(f"override `{quotable(text)}`"):
            return f"{place}: {reason}"
    return reason


def _where(names: Sequence[str], count: int) -> str:
    names = list(dict.fromkeys(names))
    if len(names) == count and count > 1:
        return "every cell"
    return enumerated(names, 3)
