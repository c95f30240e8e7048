"""Conversations in the form that Hugging Face and OpenAI share: `messages` of a role and a content, with images beside them."""

from functools import partial
from typing import Any

from vlmzoo_registry.images import open_image
from vlmzoo_registry.suggest import did_you_mean
from vlmzoo_registry.tasks import IMAGE, Dataset, Sample, Turn
from vlmzoo_tasks.config import ChatConfig
from vlmzoo_tasks.rows import BadRows, check_markers, image_names, read_rows, row_id

ROLES = ("system", "user", "assistant")


class ChatDataset(Dataset):
    """Rows `{messages: [{role, content}, ...], images: [path, ...] (or image: path), id}`.

    A content is a text in which `<image>` marks the images, or a list of `{type: text, text}` and `{type: image}`. Raises
    `DataError` with every bad row; an image is looked at when it is called.
    """

    def __init__(self, config: ChatConfig) -> None:
        self.config = config
        self.rows: list[tuple[int, str, tuple[str, ...], tuple[Turn, ...]]] = []
        bad = BadRows(config.path)
        for line, row in read_rows(config.path, bad):
            faults = bad.count
            if "image" in row and "images" in row:
                bad.add(line, "image", "stands beside `images`: keep one of them")
            field = "image" if "image" in row else "images"
            identifier, images, turns = row_id(row, line, bad), image_names(row, field, line, bad), _turns(row, line, bad)
            if bad.count == faults:
                check_markers(turns, images, field, "messages[{}].content", line, bad)
            if bad.count == faults:
                self.rows.append((line, identifier, images, turns))
        bad.raise_any()

    def __len__(self) -> int:
        """How many conversations there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """The conversation and its images."""
        line, identifier, images, turns = self.rows[index]
        source, folder = f"{self.config.path}:{line}", self.config.images
        openers = (partial(open_image, folder / name, where=f"{source}: images", root=folder) for name in images)
        return Sample(id=identifier, turns=turns, images=tuple(openers), source=source)


def _turns(row: dict[str, Any], line: int, bad: BadRows) -> tuple[Turn, ...]:
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        what = "missing" if "messages" not in row else f"must be a list of messages (is {messages!r:.60})"
        bad.add(line, "messages", f"{what}: give messages `{{role, content}}`, or drop the row")
        return ()
    turns = []
    for number, message in enumerate(messages):
        field = f"messages[{number}]"
        if not isinstance(message, dict):
            bad.add(line, field, f"must be an object `{{role, content}}` (is {type(message).__name__}): correct it")
            continue
        others = sorted(set(message) - {"role", "content"})
        role, text = message.get("role"), _text(message.get("content"), f"{field}.content", line, bad)
        if others:
            bad.add(line, f"{field}.{others[0]}", "is not read, and nothing is dropped unsaid: take it out of the messages")
        elif role not in ROLES:
            hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
            bad.add(line, f"{field}.role", f"must be one of {', '.join(ROLES)} (is {role!r}){hint}")
        elif text is not None:
            turns.append(Turn(role, text))
    if not any(turn.role == "assistant" for turn in turns):
        bad.add(
            line, "messages", "no message is from the assistant, so there is nothing to learn: add its answer, or drop the row"
        )
    return tuple(turns)


def _text(content: Any, field: str, line: int, bad: BadRows) -> str | None:
    """A content as a text in which `<image>` marks the images; None, and a reason noted, where it is none."""
    pieces = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = []
    for number, piece in enumerate(pieces):
        where = f"{field}[{number}]" if isinstance(content, list) else field
        if isinstance(piece, dict) and piece.get("type") == "image" and set(piece) == {"type"}:
            texts.append(IMAGE)
        elif isinstance(piece, dict) and piece.get("type") == "text" and isinstance(piece.get("text"), str):
            texts.append(piece["text"])
        else:
            shown = piece if isinstance(content, list) else content
            bad.add(line, where, f"must be a text, or pieces `{{type: text, text}}` and `{{type: image}}` (is {shown!r:.60})")
            return None
    text = "".join(texts)
    if not text.strip():
        bad.add(line, field, "empty: fill it, or drop the row")
        return None
    return text
