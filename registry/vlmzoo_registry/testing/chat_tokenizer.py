"""A tokenizer for the checks of templates: it merges a space with the word behind it, as most published ones do.

With one token per byte, no prompt could end within a token, and the fault that the checks look for could not show.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlmzoo_registry.byte_tokenizer import CHAT_TEMPLATE
from vlmzoo_registry.testing.conversations import CONVERSATIONS


def chat_tokenizer(control_tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with these special tokens, trained on the conversations of the checks.

    It has a chat template of the usual build, for templates that take the tokenizer's own.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [turn.text for turns in CONVERSATIONS.values() for turn in turns]
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<bos>", "<eos>", *(token for token in control_tokens if token not in ("<bos>", "<eos>"))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([" " + text for text in texts] * 4 + texts * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>", chat_template=CHAT_TEMPLATE
    )
