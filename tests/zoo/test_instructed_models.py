"""Connectors that read the instruction: what they are given, the same in training and in generation."""

import shutil
from pathlib import Path

import pytest
import torch
from small_models import picture, section, shake
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

import vlmzoo
from vlmzoo.data.instruction import instruction
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import AssemblyError, DataError, Turn

Q_FORMER = {
    "name": "connectors/instructed-q-former",
    "queries": 4,
    "depth": 2,
    "width": 24,
    "heads": 2,
    "feedforward_width": 32,
    "vocabulary": 300,
    "positions": 64,
}


@pytest.fixture(scope="module")
def model() -> VLM:
    torch.manual_seed(0)
    chain = [Q_FORMER, {"name": "connectors/linear"}]
    return shake(vlmzoo.build(section(connector=chain)))


def test_the_instruction_is_what_the_user_says_before_the_first_answer() -> None:
    turns = [
        Turn("system", "be brief"),
        Turn("user", "<image>\nwhat is it?"),
        Turn("assistant", "a cat"),
        Turn("user", "which colour?"),
    ]
    assert instruction(turns) == "what is it?"
    assert instruction(turns[:1]) == ""


def test_the_image_depends_on_the_instruction_of_its_row_alone(model: VLM) -> None:
    texts = ["what is it?", "how many?"]
    batch = model.processor(text=texts, images=[[picture(1)], [picture(1)]])
    assert batch["instruction_ids"].shape == batch["instruction_mask"].shape
    (first,), (second,) = model.encode_images(**{k: v for k, v in batch.items() if k not in ("input_ids", "attention_mask")})
    assert not torch.allclose(first.views.tokens, second.views.tokens)
    for number, text in enumerate(texts):
        alone = model.processor(text=text, images=picture(1))
        torch.testing.assert_close(model(**batch).logits[number, -1], model(**alone).logits[0, -1], rtol=1e-5, atol=1e-5)


def test_generation_reads_it_once_and_beams_keep_rows_together(model: VLM) -> None:
    batch = model.processor(text=["what is it?", "how many of them are there?"], images=[[picture(1)], [picture(2)]])
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    cached = model.generate(**batch, **options)
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))
    expanded = {key: tensor.repeat_interleave(2, dim=0) for key, tensor in batch.items()}
    assert torch.equal(model.generate(**batch, **options, num_beams=2), model.generate(**expanded, **options, num_beams=2)[::2])


def test_a_row_without_an_image_has_no_instruction_and_may_ask_as_long_as_it_likes(model: VLM) -> None:
    """Nobody reads it: the image of the row beside it is the same, whatever the text says."""
    asked = "what is it? " * 20  # more than the 64 positions of the connector
    mixed = model.processor(text=["what is it?", asked], images=[[picture(1)], []])
    assert mixed["instruction_mask"].sum(dim=1).tolist() == [len("what is it?"), 0]
    alone = model.processor(text="what is it?", images=picture(1))
    torch.testing.assert_close(model(**mixed).logits[0, -1], model(**alone).logits[0, -1], rtol=1e-5, atol=1e-5)
    text = model.processor(text=asked)
    assert text["instruction_ids"].shape == (1, 0)
    torch.testing.assert_close(model(**mixed).logits[1, -1], model(**text).logits[0, -1], rtol=1e-5, atol=1e-5)
    assert model.generate(**text, max_new_tokens=2, do_sample=False).shape[0] == 1
    with pytest.raises(DataError, match=r"^row 1: the instruction has 239 tokens, and the connector that reads it takes 64: "):
        model.processor(text=["what is it?", asked], images=[[picture(1)], [picture(2)]])


def test_a_batch_without_the_instruction_is_refused(model: VLM) -> None:
    batch = model.processor(text="what is it?", images=picture(1))
    del batch["instruction_ids"]
    with pytest.raises(DataError, match="reads the instruction, and the batch has no `instruction_ids`"):
        model(**batch)


def test_it_is_saved_with_its_tokenizer(tmp_path: Path) -> None:
    """The checkpoint needs nothing of where the tokenizer was read from."""
    words = WordLevel({"[UNK]": 0, "[PAD]": 1, "what": 2, "is": 3, "it": 4, "?": 5}, unk_token="[UNK]")
    backend = Tokenizer(words)
    backend.pre_tokenizer = Whitespace()
    source = tmp_path / "words"
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(source)
    reader = {**Q_FORMER, "tokenizer": str(source)}
    model = shake(vlmzoo.build(section(connector=[reader, {"name": "connectors/linear"}])))
    batch = model.processor(text="what is it?", images=picture(1))
    assert batch["instruction_ids"].tolist() == [[2, 3, 4, 5]]
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(source)
    loaded = vlmzoo.load(tmp_path / "model")
    again = loaded.processor(text="what is it?", images=picture(1))
    assert torch.equal(batch["instruction_ids"], again["instruction_ids"])
    assert torch.equal(model(**batch).logits, loaded(**again).logits)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    reader = {**Q_FORMER, "tokenizer": str(tmp_path / "nowhere")}
    with pytest.raises(AssemblyError, match="the tokenizer of `InstructedQFormer` cannot be read: "):
        vlmzoo.build(section(connector=[reader, {"name": "connectors/linear"}]))


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_what_a_model_would_not_read_is_refused(architecture: str) -> None:
    plain = vlmzoo.build(section(architecture))
    batch = plain.processor(text="what is it?", images=picture(1))
    ids = torch.ones(1, 3, dtype=torch.long)
    told = {"instruction_ids": ids, "instruction_mask": ids}
    with pytest.raises(DataError) as caught:
        plain(**batch, **told)
    assert list(caught.value.reasons) == [
        f"`{name}` was given, and no connector of this model reads an instruction: leave it out" for name in told
    ]
    text = plain.processor(text="what is it?")
    with pytest.raises(DataError, match="`image_mask` was given without `pixel_values`: pass the images too, or leave it out"):
        plain(**text, image_mask=batch["image_mask"])
    with pytest.raises(DataError, match="`image_layout` was given without `pixel_values`"):
        plain(**text, image_layout=torch.ones(1, 1, 4, dtype=torch.long))
    # The step of a generation that reads the prompt is such a call too.
    with pytest.raises(DataError, match="no connector of this model reads an instruction"):
        plain.generate(**text, **told, max_new_tokens=2)
    with pytest.raises(DataError, match="`image_mask` was given without `pixel_values`"):
        plain.generate(**text, image_mask=batch["image_mask"], max_new_tokens=2)


def test_rows_without_an_image_may_have_an_instruction(model: VLM) -> None:
    """The processor makes one for every row, and a batch of them may have no image at all."""
    batch = model.processor(text="what is it?")
    assert "instruction_ids" in batch and "pixel_values" not in batch
    alone = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model(**batch).logits, model(**alone).logits)
