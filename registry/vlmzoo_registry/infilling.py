"""The tokens of blank infilling (GLM, arXiv:2103.10360): language models add them, the objective writes them.

They are here because the two come from different plugins, and one name must mean one token.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASK = "[MASK]"
"""Stands for a whole span that was taken out; a tokenizer that has a mask token keeps its own."""

START = "<|startofpiece|>"
"""Stands before what is said of a span, which it is said from."""

END = "<|endofpiece|>"
"""Said behind the last token of a span."""


def add_infilling_tokens(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Add what of these the tokenizer lacks, as special tokens; a second call changes nothing."""
    if tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": MASK})
    missing = [token for token in (START, END) if token not in tokenizer.get_vocab()]
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)
