"""The placeholder of an image in the text: one that the tokenizer has already, or a new one."""

from transformers import AddedToken, PreTrainedTokenizerBase

from vlmzoo_registry.tasks import IMAGE

# What published vision-language tokenizers call it; only a *special* token of this name is taken, never plain text.
_KNOWN = (IMAGE, "<|image|>", "<image_soft_token>", "<|image_pad|>", "<IMG_CONTEXT>", "[IMG]")


def find_image_token(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    """The placeholder and its id; added to the tokenizer as a special token where it has none."""
    special = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    for token in _KNOWN:
        if token in special:
            return token, special[token]
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    return IMAGE, tokenizer.added_tokens_encoder[IMAGE]
