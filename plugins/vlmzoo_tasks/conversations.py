"""Rows that are conversations about images: what the formats of `chat` and `llava` share."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from vlmzoo_registry.tasks import Dataset, Sample, Turn
from vlmzoo_tasks.config import ChatConfig, LlavaConfig
from vlmzoo_tasks.rows import BadRows, check_markers, image_names, image_opener, read_rows, row_id


@dataclass(frozen=True)
class Form:
    """The words of a format: the `field` of a row that holds its turns, what `one` of them is called and which `keys` it has.

    `words` is the key of what is said, `answerer` who says what is learnt.
    """

    field: str
    one: str
    keys: str
    words: str
    answerer: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row: the line it begins on, its id, the images that its `field` names, and its turns."""

    line: int | str
    id: str
    field: str
    images: tuple[str, ...]
    turns: tuple[Turn, ...]


class ConversationDataset(Dataset):
    """Implement this for a format of conversations: its `form`, where a row names its images, and how one turn is read.

    Raises `DataError` with every bad row; an image is looked at when it is called.
    """

    form: ClassVar[Form]

    def __init__(self, config: ChatConfig | LlavaConfig) -> None:
        self.config = config
        self.rows: list[Conversation] = []
        bad = BadRows(config.path)
        for line, row in read_rows(config.path, bad):
            faults = bad.count
            field = self.image_field(row, line, bad)
            found = Conversation(
                line,
                row_id(row, line, bad),
                field,
                image_names(row, field, line, bad),
                read_turns(self.form, self.read_turn, row, line, bad),
            )
            if bad.count == faults:
                words = f"{self.form.field}[{{}}].{self.form.words}"
                check_markers(found.turns, found.images, field, words, line, bad)
            if bad.count == faults:
                self.rows.append(found)
        bad.raise_any(self)

    @abstractmethod
    def image_field(self, row: dict[str, Any], line: int | str, bad: BadRows) -> str:
        """The field of this row that names its images; a reason is noted in `bad` where it is not clear."""

    @abstractmethod
    def read_turn(self, turn: dict[str, Any], field: str, line: int | str, bad: BadRows) -> Turn | None:
        """A turn, which stands in `field`; None, and a reason noted in `bad`, where it is not good."""

    def __len__(self) -> int:
        """How many conversations there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The conversation and its images."""
        row = self.rows[index]
        source = f"{self.config.path}:{row.line}"
        images = (image_opener(self.config.images, name, f"{source}: {row.field}") for name in row.images)
        return Sample(id=row.id, turns=row.turns, images=tuple(images), source=source)


def read_turns(
    form: Form,
    read_turn: Callable[[dict[str, Any], str, int, BadRows], Turn | None],
    row: dict[str, Any],
    line: int | str,
    bad: BadRows,
) -> tuple[Turn, ...]:
    """The turns of a row that is written in this form, each read by `read_turn`; what is wrong with them is noted."""
    given = row.get(form.field)
    if not isinstance(given, list) or not given:
        what = "missing" if form.field not in row else f"must be a list of {form.one}s (is {given!r:.60})"
        bad.add(line, form.field, f"{what}: give {form.one}s `{form.keys}`, or drop the row")
        return ()
    turns = []
    for number, entry in enumerate(given):
        field = f"{form.field}[{number}]"
        if not isinstance(entry, dict):
            what = f"must be an object `{form.keys}` (is {type(entry).__name__})"
            bad.add(line, field, f"{what}: correct it, or drop the row")
            continue
        turn = read_turn(entry, field, line, bad)
        if turn is not None:
            turns.append(turn)
    if not any(turn.role == "assistant" for turn in turns):
        silent = f"no {form.one} is from {form.answerer}, so there is nothing to learn"
        bad.add(line, form.field, f"{silent}: add its answer, or drop the row")
    return tuple(turns)
