"""BERT and its kin as language models: their tokenizers, their sentence heads, and what of them is saved and loaded."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForMaskedLM, BertForPreTraining, PreTrainedTokenizerFast, RobertaForMaskedLM

import vlmzoo
from vlmzoo_registry import AssemblyError, ConfigError
from vlmzoo_registry.infilling import END, START
from vlmzoo_transformers.config import MaskedLMConfig
from vlmzoo_transformers.masked_lm import TransformersMaskedLM

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 270,
    "max_position_embeddings": 64,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "rain", "came", "it", "went", "."]


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's: no begin and no end token, but [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_with_the_whole_row_for_its_prefix_it_is_the_encoder(model_type, tmp_path):
    published = AutoModelForMaskedLM.from_config(AutoConfig.for_model(model_type, **SIZES, embedding_size=32)).eval()
    published.save_pretrained(tmp_path)
    word_piece().save_pretrained(tmp_path)
    ours = TransformersMaskedLM(MaskedLMConfig(model=str(tmp_path), sentence_head=False))
    ids = torch.randint(5, 270, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    with torch.no_grad():
        positions = torch.arange(9).expand(2, 9)
        hidden = ours.decode(ours.embedding(ids), attention_mask=mask, position_ids=positions, prefix_mask=mask.bool())
        expected = published(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(ours.head(hidden)[mask.bool()], expected[mask.bool()], rtol=1e-5, atol=1e-5)


def test_the_pretrained_sentence_head_comes_along(tmp_path):
    published = BertForPreTraining(AutoConfig.for_model("bert", **SIZES)).eval()
    published.save_pretrained(tmp_path)
    word_piece().save_pretrained(tmp_path)
    ours = TransformersMaskedLM(MaskedLMConfig(model=str(tmp_path)))
    ids = torch.tensor([[2, 5, 6, 7, 3, 8, 9, 3]])
    segments = torch.tensor([[0] * 5 + [1] * 3])
    everything = torch.ones_like(ids)
    with torch.no_grad():
        hidden = ours.decode(
            ours.embedding(ids), attention_mask=everything, prefix_mask=everything.bool(), segment_ids=segments
        )
        expected = published(input_ids=ids, token_type_ids=segments).seq_relationship_logits
        torch.testing.assert_close(ours.sentence_head(hidden[:, 0]), expected, rtol=1e-5, atol=1e-5)
    tokenizer = ours.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("[CLS]", "[SEP]")


def test_a_family_without_a_sentence_head_says_so(tmp_path):
    RobertaForMaskedLM(AutoConfig.for_model("roberta", **SIZES)).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"`sentence_head`: .* \(roberta\) has no weights for it: write `sentence_head: false`"
    ):
        TransformersMaskedLM(MaskedLMConfig(model=str(tmp_path)))
    with pytest.raises(AssemblyError, match="`TransformersMaskedLM` has no sentence head"):
        TransformersMaskedLM(MaskedLMConfig(model=str(tmp_path), sentence_head=False)).sentence_head  # noqa: B018


def test_weights_of_bert_without_a_sentence_head_are_refused(tmp_path):
    AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", **SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="has no weights for it: write `sentence_head: false`"):
        TransformersMaskedLM(MaskedLMConfig(model=str(tmp_path)))


def test_places_in_spans_and_their_tokens_are_saved_with_the_model(tmp_path):
    built = vlmzoo.build(
        {
            "architecture": "unified",
            "vision": "toy/vision",
            "connector": "connectors/mlp",
            "language": {
                "name": "transformers/masked-lm",
                "config": {"model_type": "bert", **SIZES, "vocab_size": 262},
                "span_positions": 8,
            },
            "template": "plain",
        }
    )
    with torch.no_grad():
        built.language.decoder.span_table.weight.normal_()
    built.save_pretrained(tmp_path / "checkpoint")
    again = vlmzoo.load(tmp_path / "checkpoint")
    assert torch.equal(again.language.decoder.span_table.weight, built.language.decoder.span_table.weight)
    assert torch.equal(again.language.sentence_head.pooler.weight, built.language.sentence_head.pooler.weight)
    for token in (START, END, "[MASK]"):
        ids = [model.processor.tokenizer(token)["input_ids"] for model in (built, again)]
        assert ids[0] == ids[1]
        assert len(ids[0]) == 3  # [CLS], the token, [SEP]
    assert again.language.embedding.weight.shape[0] >= len(again.processor.tokenizer)
