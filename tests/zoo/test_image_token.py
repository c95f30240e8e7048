"""Which token stands for an image: one that the tokenizer has, or a new one with an id and a row of its own."""

import pytest
import torch
from small_models import LLAMA, causal_lm, section
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

import vlmzoo
from vlmzoo.image_token import find_image_token
from vlmzoo_registry import AssemblyError
from vlmzoo_registry.byte_tokenizer import BYTE_TOKENS, byte_tokenizer


def test_a_new_one_is_added_once() -> None:
    tokenizer = byte_tokenizer()
    assert find_image_token(tokenizer) == ("<image>", BYTE_TOKENS)
    assert find_image_token(tokenizer) == ("<image>", BYTE_TOKENS)
    assert len(tokenizer) == BYTE_TOKENS + 1
    assert tokenizer("a<image>b").input_ids == [*tokenizer("a").input_ids, BYTE_TOKENS, *tokenizer("b").input_ids]


@pytest.mark.parametrize("name", ["<image>", "<|image|>", "<|image_pad|>", "<image_soft_token>", "<IMG_CONTEXT>", "[IMG]"])
def test_one_that_is_there_is_taken(name: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<other>", special=True), AddedToken(name, special=True)], special_tokens=True)
    assert find_image_token(tokenizer) == (name, BYTE_TOKENS + 1)
    assert len(tokenizer) == BYTE_TOKENS + 2


def test_a_plain_word_of_that_name_is_not_taken() -> None:
    """Any text could write it."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["[IMG]"])
    assert find_image_token(tokenizer) == ("<image>", BYTE_TOKENS + 1)


def test_an_id_that_another_token_has_is_refused() -> None:
    """tokenizers counts the vocabulary to find the next id, and does not look whether it is taken."""
    vocabulary = {"<unk>": 0, "cat": 1, "dog": 3, "owl": 4}
    model = Tokenizer(models.WordLevel({**vocabulary, "emu": 7}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    assert find_image_token(PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")) == ("<image>", 5)
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(AssemblyError) as refused:
        find_image_token(PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>"))
    assert str(refused.value) == (
        "the tokenizer gives the new token `<image>` the id 4, which `owl` has already, as the ids of its vocabulary have "
        "holes: add an image token to it yourself, with an id of its own"
    )


@pytest.mark.parametrize("tied", [True, False])
def test_its_row_is_new_and_the_old_rows_are_kept(tied: bool) -> None:
    torch.manual_seed(0)
    language = {**LLAMA, "vocab_size": BYTE_TOKENS, "tie_word_embeddings": tied}
    model = vlmzoo.build(section(language=causal_lm(language))).language.model
    rows = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    assert rows.shape[0] == head.shape[0] == BYTE_TOKENS + 1
    assert (rows is head) == tied
    assert torch.allclose(rows[-1], rows[:-1].mean(dim=0), atol=1e-6)


def test_it_is_never_generated() -> None:
    torch.manual_seed(0)
    model = vlmzoo.build(section())
    with torch.no_grad():
        model.language.tokens.weight[model.config.image_token_id] *= 1000  # nothing would be likelier, one way or the other
    batch = model.processor(text=["a", "b", "c", "d"])
    said = model.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    assert not (said == model.config.image_token_id).any()
    free = model.generate(**batch, max_new_tokens=8, do_sample=False, suppress_tokens=None)[:, batch["input_ids"].shape[1] :]
    assert (free == model.config.image_token_id).any()
