"""Conversations about images in the format of LLaVA (arXiv:2304.08485), which most instruction data sets share."""

from functools import partial
from typing import Any, Literal

from vlmzoo_registry.images import open_image
from vlmzoo_registry.suggest import did_you_mean
from vlmzoo_registry.tasks import Dataset, Sample, Turn
from vlmzoo_tasks.config import LlavaConfig
from vlmzoo_tasks.rows import BadRows, check_markers, image_names, read_rows, row_id, text_field

ROLES: dict[str, Literal["system", "user", "assistant"]] = {"system": "system", "human": "user", "gpt": "assistant"}


class LlavaDataset(Dataset):
    """Rows `{id, image, conversations: [{from: human | gpt | system, value}]}`; `image` is a path, a list of paths, or absent.

    Raises `DataError` with every bad row; an image is looked at when it is called.
    """

    def __init__(self, config: LlavaConfig) -> None:
        self.images = config.images
        self.path = config.path
        self.rows: list[tuple[int, str, tuple[str, ...], tuple[Turn, ...]]] = []
        bad = BadRows(config.path)
        for line, row in read_rows(config.path, bad):
            faults = bad.count
            identifier, images, turns = row_id(row, line, bad), image_names(row, "image", line, bad), _turns(row, line, bad)
            if bad.count == faults:
                check_markers(turns, images, "image", "conversations[{}].value", line, bad)
            if bad.count == faults:
                self.rows.append((line, identifier, images, turns))
        bad.raise_any()

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The conversation and its images."""
        line, identifier, images, turns = self.rows[index]
        source = f"{self.path}:{line}"
        openers = (partial(open_image, self.images / name, where=f"{source}: image", root=self.images) for name in images)
        return Sample(id=identifier, turns=turns, images=tuple(openers), source=source)


def _turns(row: dict[str, Any], line: int, bad: BadRows) -> tuple[Turn, ...]:
    conversations = row.get("conversations")
    if not isinstance(conversations, list) or not conversations:
        what = "missing" if "conversations" not in row else f"must be a list of turns (is {conversations!r:.60})"
        bad.add(line, "conversations", f"{what}: give turns `{{from, value}}`, or drop the row")
        return ()
    turns = []
    for number, turn in enumerate(conversations):
        field = f"conversations[{number}]"
        if not isinstance(turn, dict):
            bad.add(line, field, f"must be an object `{{from, value}}` (is {type(turn).__name__}): correct it, or drop the row")
            continue
        speaker, text = turn.get("from"), text_field(turn, "value", line, bad)
        if not isinstance(speaker, str) or speaker not in ROLES:
            hint = did_you_mean(speaker, ROLES) if isinstance(speaker, str) else ""
            bad.add(line, f"{field}.from", f"must be one of {', '.join(ROLES)} (is {speaker!r}){hint}")
        elif text is not None:
            turns.append(Turn(ROLES[speaker], text))
    if not any(turn.role == "assistant" for turn in turns):
        bad.add(line, "conversations", "no turn is from gpt, so there is nothing to learn: add its answer, or drop the row")
    return tuple(turns)
