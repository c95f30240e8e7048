"""The tokenizer of a language model: a pretrained one, or one token per byte for an architecture with random weights."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from vlmzoo_registry import ConfigError
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer
from vlmzoo_transformers.config import TextConfig


def load_tokenizer(config: TextConfig, rows: int) -> PreTrainedTokenizerBase:
    """The tokenizer that a config names, or its model's own; without either that of bytes, for an embedding of so many rows.

    Raises `ConfigError` where there are too few rows for bytes, or where the tokenizer knows no character offsets.
    """
    source = config.tokenizer or config.model
    if source is None:
        if rows < BYTE_TOKENS:
            raise ConfigError(
                f"`vocab_size` (={rows}) must be at least {BYTE_TOKENS}, one row per byte and three special tokens, "
                "where no `tokenizer` is named"
            )
        return byte_tokenizer()
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ConfigError(f"the tokenizer of {source!r} gives no character offsets; labels need a fast tokenizer")
    return tokenizer
