"""A tokenizer with one token per byte, for language models without a vocabulary of their own: random ones, tests, tutorials."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BYTE_TOKENS = 256 + 3
"""How many rows the tokenizer needs: the bytes, and `<pad>`, `<bos>`, `<eos>`."""

CHAT_TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
"""Its chat template, of the usual build."""


def byte_tokenizer(control_tokens: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A fast tokenizer (so with character offsets) of 259 tokens; ids 0, 1, 2 are `<pad>`, `<bos>`, `<eos>`.

    It adds no token by itself. `control_tokens` are further special tokens, with the ids from 259 on.
    """
    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=1_000_000,
        chat_template=CHAT_TEMPLATE,
    )
    if control_tokens:
        made.add_special_tokens({"extra_special_tokens": list(control_tokens)})
    return made
