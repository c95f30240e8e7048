"""What a connector that reads the instruction is given: the words of the user before the first answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo.data.padding import pad_rows
from vlmzoo_registry.errors import BadRowError
from vlmzoo_registry.tasks import IMAGE, Turn


def instruction(turns: Sequence[Turn]) -> str:
    """What the user says before the first answer, without its images.

    Later questions are left out, so that an image means the same throughout a conversation, in training and in generation.
    """
    first = takewhile(lambda turn: turn.role != "assistant", turns)
    return "\n".join(turn.text.replace(IMAGE, "").strip() for turn in first if turn.role == "user")


@dataclass(frozen=True)
class Instructions:
    """How instructions are read: the connector's own `tokenizer`, and the most ids that it can read (None: any number)."""

    tokenizer: PreTrainedTokenizerBase
    longest: int | None = None

    def ids(self, turns: Sequence[Turn], source: str) -> Int[Tensor, " Q"]:
        """The ids of a conversation's instruction; none where it shows no image, as nobody reads them then.

        Raises `BadRowError` naming `source` where it is longer than what the connector can read.
        """
        if not any(IMAGE in turn.text for turn in turns):
            return torch.zeros(0, dtype=torch.long)
        ids = torch.tensor(self.tokenizer(instruction(turns))["input_ids"], dtype=torch.long)
        if self.longest is not None and len(ids) > self.longest:
            raise BadRowError(
                source,
                f"the instruction has {len(ids)} tokens, and the connector that reads it takes {self.longest}: shorten what "
                "the user says before the first answer, or drop the row",
            )
        return ids

    def batch(self, rows: Sequence[Sequence[Turn]], sources: Sequence[str]) -> dict[str, Tensor]:
        """`instruction_ids` and `instruction_mask` [B, Q] of conversations, padded on the right. Raises as `ids`."""
        ids = [self.ids(turns, source) for turns, source in zip(rows, sources, strict=True)]
        filler = 0 if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        return {
            "instruction_ids": pad_rows(ids, filler, side="right"),
            "instruction_mask": pad_rows([torch.ones_like(row) for row in ids], 0, side="right"),
        }
