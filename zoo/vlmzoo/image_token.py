"""The placeholder of an image in the text: one that the tokenizer has already, or a new one."""

from collections.abc import Sequence

from transformers import AddedToken, PreTrainedTokenizerBase

from vlmzoo_registry import AssemblyError
from vlmzoo_registry.tasks import IMAGE

# What published vision-language tokenizers call it; only a *special* token of this name is taken, never plain text.
_KNOWN = (IMAGE, "<|image|>", "<image_soft_token>", "<|image_pad|>", "<IMG_CONTEXT>", "[IMG]")


def find_image_token(tokenizer: PreTrainedTokenizerBase, control_tokens: Sequence[str] = ()) -> tuple[str, int]:
    """The placeholder and its id; added to the tokenizer as a special token where it has none.

    So are the `control_tokens` that a layout writes around an image.

    Raises `AssemblyError` where the tokenizer gives the new token an id that another has: its vocabulary has holes.
    """
    missing = [token for token in control_tokens if token not in tokenizer.all_special_tokens]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    special = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    for token in _KNOWN:
        if token in special:
            return token, special[token]
    tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)], special_tokens=True)
    vocabulary = tokenizer.get_vocab()
    token_id = vocabulary[IMAGE]
    others = sorted(token for token, other in vocabulary.items() if other == token_id and token != IMAGE)
    if others:
        raise AssemblyError(
            f"the tokenizer gives the new token `{IMAGE}` the id {token_id}, which `{others[0]}` has already, as the ids of "
            "its vocabulary have holes: add an image token to it yourself, with an id of its own"
        )
    return IMAGE, token_id
