"""Tokenizers of the kinds that differ in where their offsets lie, trained here on a few sentences."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vlmzoo.data import ImageToken

SENTENCES = [
    "a red car stands before the blue house, and a dog runs over the street",
    "the user asks: what is in the picture? the assistant says: two cats on a sofa",
    "  spaces   stand before 123 words\n\nand after them 😀 a face",
]
SPECIAL = ["<s>", "</s>", "<image>"]


def _byte_level(*, trim: bool, template: str | None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    steps = [processors.ByteLevel(trim_offsets=trim)]
    if template is not None:
        steps.append(processors.TemplateProcessing(single=template, special_tokens=[("<s>", 0), ("</s>", 1)]))
    tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def _metaspace() -> PreTrainedTokenizerFast:
    """Like Llama 2: no pre-tokenizer cuts the text, a space is put before it, bytes stand in for unknown characters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    tokenizer.pre_tokenizer = None
    # The trainer calls the byte tokens special, which they are not: they stay in the vocabulary alone.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = {
    "byte-level": lambda: _byte_level(trim=False, template=None),
    "byte-level, trimmed, BOS": lambda: _byte_level(trim=True, template="<s> $A"),
    "byte-level, trimmed, BOS and EOS": lambda: _byte_level(trim=True, template="<s> $A </s>"),
    "metaspace, BOS": _metaspace,
}
_trained: dict[str, PreTrainedTokenizerFast] = {}


@pytest.fixture(params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    if request.param not in _trained:
        _trained[request.param] = KINDS[request.param]()
    return _trained[request.param]


@pytest.fixture
def image_token(tokenizer: PreTrainedTokenizerFast) -> ImageToken:
    return ImageToken(text="<image>", id=tokenizer.convert_tokens_to_ids("<image>"), slots=3)
