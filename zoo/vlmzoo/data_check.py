"""Every row of a recipe's data, read, opened and tokenized once: all that is wrong with it, before anything trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from rich.console import Console
from rich.progress import Progress

from vlmzoo.config import DataChoice, Recipe, StageConfig, load_recipe
from vlmzoo.data import Collator
from vlmzoo.labels import chosen_stage
from vlmzoo.passing_bar import passing_bar
from vlmzoo.training.samples import make_collator
from vlmzoo.training.sources import apply_rules, look_at, notes_of_length, read_source, refusal
from vlmzoo.without_values import without_values
from vlmzoo_registry import Catalogue, DataError, Fault


@dataclass(frozen=True)
class CheckedSource:
    """A data set of a stage: how many samples it gives that can be used, how many rows cannot, why, and notes.

    `notes` say what rules did, and how many rows are too long.
    """

    stage: str
    name: str
    samples: int
    bad_rows: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        faults = [{"row": fault.place, "reason": fault.reason} for fault in self.faults]
        return {
            "stage": self.stage,
            "name": self.name,
            "samples": self.samples,
            "bad_rows": self.bad_rows,
            "faults": faults,
            "notes": list(self.notes),
        }


def check_data(
    recipe: Recipe | Mapping[str, Any] | str | PathLike[str],
    *,
    stage: str | None = None,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
    console: Console | None = None,
) -> tuple[CheckedSource, ...]:
    """Look at every row of all stages, or of one, as training would; nothing is trained and nothing written.

    A file that cannot be read at all is one fault. `console` is where progress is shown; default: nowhere.

    Raises `ConfigError` and `AssemblyError` where the recipe or its parts do not fit.
    """
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, catalogue)
    stages = plan.stages if stage is None else (chosen_stage(plan, stage),)
    model = without_values(plan.model)
    with passing_bar(console) as progress:
        return tuple(
            _checked(choice, each, collate, progress)
            for each in stages
            for collate in [make_collator(model, each, seed=plan.seed)]
            for choice in each.data
        )


def _checked(choice: DataChoice, stage: StageConfig, collate: Collator, progress: Progress) -> CheckedSource:
    name = choice.component.full_name
    refused: tuple[Fault, ...]
    try:
        source = read_source(choice)
    except DataError as error:
        refused = refusal(error, name)
        return CheckedSource(stage.name, name, 0, _rows_of(refused, name), refused, ())
    refused = ()
    try:
        source = apply_rules(choice, source)
    except DataError as error:  # the rows are looked at as they are, so that all that is wrong is said at once
        refused = refusal(error, name)
    looks = []
    task = progress.add_task(f"{stage.name}: checking {name}", total=len(source.rows))
    for index in range(len(source.rows)):
        looks.append(look_at(source.rows, index, collate, stage.batching))
        progress.advance(task)
    faults = (*refused, *(fault for look in looks for fault in look.faults))
    if refused:
        bad = _rows_of(faults, name)
        notes: tuple[str, ...] = ("a rule refuses these rows, so none can be used; they are looked at as they are",)
    else:
        bad = sum(bool(look.faults) for look in looks)
        notes = (*source.notes, *notes_of_length(looks))
    return CheckedSource(
        stage.name,
        name,
        samples=0 if refused else len(looks) - bad,
        bad_rows=source.bad_rows + bad,
        faults=(*source.faults, *faults),
        notes=notes,
    )


def _rows_of(faults: Sequence[Fault], name: str) -> int:
    """How many rows have faults; what is said of the data set as a whole is none of a row."""
    return len({fault.place for fault in faults} - {name})
