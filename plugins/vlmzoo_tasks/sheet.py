"""Many small pictures in one image file, with a label each: a data set that travels as two files."""

from functools import cached_property, partial
from string import Formatter
from typing import Any

from PIL import Image

from vlmzoo_registry.errors import ConfigError, DataError
from vlmzoo_registry.images import open_image
from vlmzoo_registry.suggest import did_you_mean
from vlmzoo_registry.tasks import IMAGE, Dataset, Sample, Turn
from vlmzoo_tasks.config import SheetConfig
from vlmzoo_tasks.draws import draw
from vlmzoo_tasks.rows import BadRows, read_rows, row_id, text_field


def held_out(concept: str, share: float) -> bool:
    """Whether a concept belongs to the share that is held out: decided by its name alone, the same on every machine."""
    return draw(concept) < share * 2**64


class SheetDataset(Dataset):
    """The cells of `config.sheet` that the config chooses. Raises `DataError` with every bad label, or a sheet too small."""

    def __init__(self, config: SheetConfig) -> None:
        for words in (words for exchange in config.exchanges for words in exchange):
            if IMAGE in words:
                raise ConfigError(f"{words!r} must not contain `{IMAGE}`: the image stands before it by itself")
        self.config = config
        self.cells: list[tuple[int, int, str, tuple[Turn, ...]]] = []  # cell, line, id, turns
        bad = BadRows(config.labels)
        fields = _fields(config)
        chosen_by_group = config.include_groups is not None or config.exclude_groups
        groups = set()
        count = 0
        for cell, (line, row) in enumerate(read_rows(config.labels, bad)):
            count = cell + 1
            faults = bad.count
            concept = text_field(row, config.concept, line, bad)
            identity = row_id(row, line, bad)
            group = text_field(row, "group", line, bad) if chosen_by_group else None
            values = {field: _value(row, field, line, bad) for field in sorted(fields)}
            if bad.count > faults or concept is None:
                continue
            groups.add(group)
            if config.include_groups is not None and group not in config.include_groups:
                continue
            if group in config.exclude_groups:
                continue
            if config.split is None or (config.split == "heldout") == held_out(concept, config.heldout):
                self.cells.append((cell, line, identity, _turns(config, values, line, bad)))
        bad.raise_any()
        known = {group for group in groups if group is not None}
        unknown = [name for name in (*(config.include_groups or ()), *config.exclude_groups) if name not in known]
        if unknown:
            reasons = [f"no label has the group `{name}`{did_you_mean(name, known)}" for name in unknown]
            raise DataError(f"`{config.labels}` has the groups {', '.join(sorted(known))}:", reasons)
        if not self.cells:
            raise DataError(f"`{config.labels}`: none of its {count} labels is chosen: widen the groups or the split")
        self._check_size(count)

    def __len__(self) -> int:
        """How many cells are chosen."""
        return len(self.cells)

    def __getitem__(self, index: int) -> Sample:
        """The picture of a cell and what is said of it."""
        cell, line, identity, turns = self.cells[index]
        return Sample(
            id=identity,
            turns=turns,
            images=(partial(self._cut, cell),),
            source=f"{self.config.labels}:{line}",
        )

    @cached_property
    def _sheet(self) -> Image.Image:
        return open_image(self.config.sheet, where="sheet")

    def _cut(self, cell: int) -> Image.Image:
        row, column = divmod(cell, self.config.columns)
        left, top = column * self.config.cell, row * self.config.cell
        return self._sheet.crop((left, top, left + self.config.cell, top + self.config.cell))

    def _check_size(self, count: int) -> None:
        width, height = self.config.columns * self.config.cell, -(-count // self.config.columns) * self.config.cell
        size = self._sheet.size
        if size[0] != width or size[1] < height:
            raise DataError(
                f"`{self.config.sheet}` is {size[0]} x {size[1]} pixels, but {count} labels in {self.config.columns} columns "
                f"of {self.config.cell} pixels need {width} x {height}: correct `columns`, `cell` or the files"
            )


def _fields(config: SheetConfig) -> set[str]:
    """The fields of a label that are said."""
    said = [words for exchange in config.exchanges for words in exchange]
    return {field for words in said for _, field, _, _ in Formatter().parse(words) if field is not None}


def _turns(config: SheetConfig, values: dict[str, str], line: int | str, bad: BadRows) -> tuple[Turn, ...]:
    """What is said of one picture, which stands before the first words."""
    turns = []
    for number, (asked, answer) in enumerate(config.exchanges):
        question, text = asked.format_map(values), answer.format_map(values)
        for field, words in ((f"turns.{number}.user", question), (f"turns.{number}.assistant", text)):
            silent = field.endswith("assistant") and not words.strip()
            if silent or IMAGE in words:
                field = field if config.turns is not None else "text"
                bad.add(line, field, f"must be words without `{IMAGE}` (is {words!r:.60}): correct it")
        turns += [Turn("user", question if number else IMAGE + question), Turn("assistant", text)]
    return tuple(turns)


def _value(row: dict[str, Any], field: str, line: int | str, bad: BadRows) -> str:
    """A field as words: a text, or a list of texts joined with commas."""
    value = row.get(field)
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        return ", ".join(value)
    return text_field(row, field, line, bad) or ""
