"""What a connector that reads the instruction is given: the words of the user before the first answer."""

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vlmzoo.data.padding import pad_rows
from vlmzoo_registry.tasks import IMAGE, Turn


def instruction(turns: Sequence[Turn]) -> str:
    """What the user says before the first answer, without its images.

    Later questions are left out, so that an image means the same throughout a conversation, in training and in generation.
    """
    first = takewhile(lambda turn: turn.role != "assistant", turns)
    return "\n".join(turn.text.replace(IMAGE, "").strip() for turn in first if turn.role == "user")


def instruction_batch(rows: Sequence[Sequence[Turn]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """`instruction_ids` and `instruction_mask` [B, Q] of conversations, padded on the right."""
    ids = [torch.tensor(tokenizer(instruction(turns))["input_ids"], dtype=torch.long) for turns in rows]
    filler = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return {
        "instruction_ids": pad_rows(ids, filler, side="right"),
        "instruction_mask": pad_rows([torch.ones_like(row) for row in ids], 0, side="right"),
    }
