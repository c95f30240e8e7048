"""The samples of a stage: the datasets of its `data:`, one after the other, and what makes batches of them."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from rich.console import Console

from vlmzoo.assemble import make_template
from vlmzoo.config import StageConfig
from vlmzoo.data import Collator
from vlmzoo.data.reader import SampleImages
from vlmzoo.model.vlm import VLM
from vlmzoo.objectives import stage_objective, standing
from vlmzoo.passing_bar import passing_bar
from vlmzoo.training.row_length import positions, row_length
from vlmzoo.training.sources import leave_out_bad_rows, open_source
from vlmzoo_registry import DataError, Dataset, Fault, Objective, Sample
from vlmzoo_registry.errors import RefusedRowsError, faults_of_rows

_LOOKED_AT = 64  # samples of a fingerprint


class Samples:
    """Several datasets as one. `weights`: how much the samples of each count in the loss; default: 1.

    `left_out` are the faults of rows that were left out, `notes` say what rules did.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        weights: Sequence[float] | None = None,
        *,
        left_out: Sequence[Fault] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.left_out = tuple(left_out)
        self.notes = tuple(notes)
        self._datasets = tuple(datasets)
        self._weights = tuple(weights) if weights is not None else (1.0,) * len(self._datasets)
        self._ends = list(accumulate(len(dataset) for dataset in self._datasets))
        if not self._ends or self._ends[-1] == 0:
            raise DataError(f"`data`: {len(self._datasets)} datasets, and not one sample in them")

    def __len__(self) -> int:
        """How many samples there are in all."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        """The sample at this index."""
        number = bisect_right(self._ends, index)
        sample = self._datasets[number][index - (self._ends[number - 1] if number else 0)]
        return sample if self._weights[number] == 1 else replace(sample, weight=self._weights[number])

    def said(self) -> list[str]:
        """What a person is told of the data: what rules did, and how many rows were left out."""
        rows = len({fault.place for fault in self.left_out})
        left_out = [f"{rows} of {rows + len(self)} rows are bad and left out, `log.jsonl` lists them"] if rows else []
        return [*self.notes, *left_out]

    def fingerprint(self) -> str:
        """A digest of the number of samples and of the texts of some of them, evenly spread: other data has another.

        Not of all: a resumed run asks for it, and a large dataset takes long to read.
        """
        count = len(self)
        looked_at = sorted({number * (count - 1) // max(1, _LOOKED_AT - 1) for number in range(_LOOKED_AT)})
        rows = [self[index] for index in looked_at]
        said = [[row.id, len(row.images), [[turn.role, turn.text] for turn in row.turns]] for row in rows]
        return hashlib.sha256(json.dumps([count, said]).encode()).hexdigest()


def stage_samples(stage: StageConfig, collate: Collator | None = None, console: Console | None = None) -> Samples:
    """The samples of a stage. Raises `DataError` where its data cannot be used.

    Where the stage leaves bad rows out, those that cannot be read are; with a `collate` also those whose images cannot be
    opened and those that cannot be made tokens of: only so are they what the stage learns from. How far that is, is shown on
    `console`; default: nowhere.
    """
    sources, bad = [], []
    for choice in stage.data:
        source = open_source(choice)
        bad += [source] if source.faults else []
        sources.append(source)
    if bad and stage.on_bad_row == "error":
        faults = [fault for source in bad for fault in source.faults]
        raise RefusedRowsError(f"stage {faults_of_rows(stage.name, faults)}", faults)
    if stage.on_bad_row == "skip":
        with passing_bar(console) as bar:
            sources = list(leave_out_bad_rows(sources, stage, collate, bar))
    return Samples(
        [source.rows for source in sources],
        stage.loss_weights,
        left_out=[fault for source in sources for fault in source.faults],
        notes=[f"{source.name}: {note}" for source in sources for note in source.notes],
    )


def make_collator(model: VLM, stage: StageConfig, *, seed: int = 0, images: SampleImages | None = None) -> Collator:
    """What turns the samples of a stage into batches for this model to train on.

    `images` reads the images of samples; default: the model's processor, which makes pixels of them. `seed` and the stage's
    name are what the random draws of its objective are keyed by, besides the epoch and the sample.

    Raises `AssemblyError` where the tokenizer lacks what the stage's template or objective writes, with every reason why the
    language model cannot be trained with the objective, and where rows may be longer than it has positions for.
    """
    language_name = model.config.model["language"]["name"]
    objective = stage_objective(stage, model.language, language_name)
    return _collator(
        model,
        stage,
        objective,
        images=model.processor.images if images is None else images,
        length=row_length(stage, model.language),
        key=(seed, stage.name),
        flatten=standing(stage, objective, model.language, language_name).flat,
    )


def evaluation_collator(model: VLM, stage: StageConfig) -> Collator:
    """What turns samples into batches to ask a model about that was trained in this stage.

    Rows are padded, as each is looked at alone, and whole: the stage's `max_length` and `too_long` say what is learnt, and a
    true answer may be as long as the language model has positions for.

    Raises `AssemblyError` as `make_collator` does, but for `max_length`.
    """
    objective = stage_objective(stage, model.language, model.config.model["language"]["name"])
    return _collator(model, stage, objective, images=model.processor.images, key=(0, stage.name))


def _collator(model: VLM, stage: StageConfig, objective: Objective, **options: Any) -> Collator:
    """The collator of this model's tokenizer and of the stage's template; `options` are what uses of it differ in."""
    tokenizer = model.processor.tokenizer
    return Collator(
        objective=objective.bind(tokenizer),
        template=model.processor.template if stage.template is None else make_template(stage.template, tokenizer),
        tokenizer=tokenizer,
        image_token=model.processor.image_token,
        max_length=positions(model.language),
        instructions=model.processor.instructions,
        **options,
    )
