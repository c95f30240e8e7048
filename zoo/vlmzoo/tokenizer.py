"""Read the tokenizer of a language part: a few files, which may be missing where the part itself is only described."""

from transformers import PreTrainedTokenizerBase

from vlmzoo.config import Choice
from vlmzoo_registry import AssemblyError, LanguageModel


def read_tokenizer(choice: Choice, language: LanguageModel) -> PreTrainedTokenizerBase:
    """The tokenizer of `language`, which `choice` has made. Raises `AssemblyError` where it cannot be read."""
    try:
        return language.tokenizer
    except (OSError, ValueError) as error:  # what transformers raises for a tokenizer that is not there
        said = " ".join(str(error).split()) or type(error).__name__
        raise AssemblyError(f"`language` ({choice.component.full_name}): its tokenizer cannot be read: {said}") from error
