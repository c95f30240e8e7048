"""Conversations in the form that Hugging Face and OpenAI share: `messages` of a role and a content, with images beside them."""

from typing import Any

from vlmzoo_registry.suggest import did_you_mean
from vlmzoo_registry.tasks import IMAGE, Turn
from vlmzoo_tasks.conversations import ConversationDataset, Form
from vlmzoo_tasks.rows import BadRows

ROLES = ("system", "user", "assistant")

MESSAGES = Form(field="messages", one="message", keys="{role, content}", words="content", answerer="the assistant")


class ChatDataset(ConversationDataset):
    """Rows `{messages: [{role, content}, ...], images: [path, ...] (or image: path), id}`.

    A content is a text in which `<image>` marks the images, or a list of `{type: text, text}` and `{type: image}`.
    """

    form = MESSAGES

    def image_field(self, row: dict[str, Any], line: int | str, bad: BadRows) -> str:
        """`images` or `image`."""
        if "image" in row and "images" in row:
            bad.add(line, "image", "stands beside `images`: keep one of them")
        return "image" if "image" in row else "images"

    def read_turn(self, turn: dict[str, Any], field: str, line: int | str, bad: BadRows) -> Turn | None:
        """A message."""
        return read_message(turn, field, line, bad)


def read_message(turn: dict[str, Any], field: str, line: int | str, bad: BadRows) -> Turn | None:
    """A message as a turn; None, and a reason noted, where it is not good."""
    others = sorted(set(turn) - {"role", "content"})
    role, text = turn.get("role"), _text(turn.get("content"), f"{field}.content", line, bad)
    if others:
        bad.add(line, f"{field}.{others[0]}", "is not read, and nothing is dropped unsaid: take it out of the messages")
    elif role not in ROLES:
        hint = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        bad.add(line, f"{field}.role", f"must be one of {', '.join(ROLES)} (is {role!r}){hint}")
    elif text is not None:
        return Turn(role, text)
    return None


def _text(content: Any, field: str, line: int | str, bad: BadRows) -> str | None:
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
