"""Conversations about images in the format of LLaVA (arXiv:2304.08485), which most instruction data sets share."""

from typing import Any, Literal

from vlmzoo_registry.suggest import did_you_mean
from vlmzoo_registry.tasks import Turn
from vlmzoo_tasks.conversations import ConversationDataset, Form
from vlmzoo_tasks.rows import BadRows, text_field

ROLES: dict[str, Literal["system", "user", "assistant"]] = {"system": "system", "human": "user", "gpt": "assistant"}

CONVERSATIONS = Form(field="conversations", one="turn", keys="{from, value}", words="value", answerer="gpt")


class LlavaDataset(ConversationDataset):
    """Rows `{id, image, conversations: [{from: human | gpt | system, value}]}`; `image` is a path, several, or absent."""

    form = CONVERSATIONS

    def image_field(self, row: dict[str, Any], line: int | str, bad: BadRows) -> str:
        """`image`, always."""
        return "image"

    def read_turn(self, turn: dict[str, Any], field: str, line: int | str, bad: BadRows) -> Turn | None:
        """A turn, its speaker in our words."""
        return read_llava_turn(turn, field, line, bad)


def read_llava_turn(turn: dict[str, Any], field: str, line: int | str, bad: BadRows) -> Turn | None:
    """A turn, its speaker in our words; None, and a reason noted, where it is not good."""
    speaker, text = turn.get("from"), text_field(turn, "value", line, bad)
    if not isinstance(speaker, str) or speaker not in ROLES:
        hint = did_you_mean(speaker, ROLES) if isinstance(speaker, str) else ""
        bad.add(line, f"{field}.from", f"must be one of {', '.join(ROLES)} (is {speaker!r}){hint}")
    elif text is not None:
        return Turn(ROLES[speaker], text)
    return None
