"""Masked LM and next-sentence prediction: the corruption, and the loss against `BertForPreTraining` with the same weights."""

from dataclasses import replace

import pytest
import torch
from objective_models import BERT, MASKED_LM, collator, model, samples
from transformers import AutoConfig, BertForPreTraining

from vlmzoo.data.encode import IGNORE
from vlmzoo_registry import DataError, Turn


def reference(built) -> BertForPreTraining:
    """The published class with the weights of a zoo model."""
    fields = {key: value for key, value in BERT.items() if key != "model_type"} | {
        "vocab_size": built.language.text_config.vocab_size
    }
    published = BertForPreTraining(AutoConfig.for_model("bert", **fields)).eval()
    ours = {name.removeprefix("decoder.model."): tensor for name, tensor in built.language.state_dict().items()}
    for there, here in (
        ("bert.pooler.dense", "_sentence_head.pooler"),
        ("cls.seq_relationship", "_sentence_head.classifier"),
    ):
        for kind in ("weight", "bias"):
            ours[f"{there}.{kind}"] = ours.pop(f"{here}.{kind}")
    missing, unexpected = published.load_state_dict(ours, strict=False)
    assert (list(missing), list(unexpected)) == ([], [])
    return published


def test_the_sum_of_both_losses_is_that_of_bert_for_pre_training():
    built = model(MASKED_LM)
    collate = collator(built, "masked", template="pair", next_sentence=True, share=0.3)
    batch = collate(samples())
    assert set(batch) == {"input_ids", "attention_mask", "targets", "prefix_mask", "segment_ids", "sentence_labels"}
    published = reference(built)
    expected = published(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        token_type_ids=batch["segment_ids"],
        labels=batch["targets"],
        next_sentence_label=batch["sentence_labels"],
    )
    found = built(**batch, logits_to_keep=0)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-5)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found.logits[real], expected.prediction_logits[real], rtol=1e-5, atol=1e-5)
    found.loss.backward()
    expected.loss.backward()
    theirs = {name: parameter.grad for name, parameter in published.named_parameters()}
    ours = {name.removeprefix("decoder.model."): p.grad for name, p in built.language.named_parameters()}
    names = {name.replace("_sentence_head.pooler", "bert.pooler.dense") for name in ours}
    names = {name.replace("_sentence_head.classifier", "cls.seq_relationship") for name in names}
    assert names == set(theirs)
    for name, gradient in ours.items():
        name = name.replace("_sentence_head.pooler", "bert.pooler.dense")
        name = name.replace("_sentence_head.classifier", "cls.seq_relationship")
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_row_reads_as_bert_reads_it():
    built = model(MASKED_LM)
    tokenizer = built.processor.tokenizer
    batch = collator(built, "masked", template="pair", next_sentence=True)(samples()[2:])
    ids, targets = batch["input_ids"][0], batch["targets"][0]
    whole = torch.where(targets == IGNORE, ids, targets)
    assert tokenizer.decode(whole) == "[CLS]Its paint is red.[SEP]It is old.[SEP]"
    first = 1 + len("Its paint is red.") + 1  # [CLS], a token per byte, [SEP]
    assert batch["segment_ids"][0].tolist() == [0] * first + [1] * (len(whole) - first)
    assert batch["prefix_mask"].all()


def test_most_chosen_tokens_are_hidden_some_replaced_some_kept():
    built = model(MASKED_LM)
    tokenizer = built.processor.tokenizer
    collate = collator(built, "masked", template="pair")
    special = set(tokenizer.all_special_ids)
    hidden = other = same = total = length = 0
    for epoch in range(300):
        row = collate.encode(replace(samples()[1], epoch=epoch))
        chosen = row.labels != IGNORE
        assert not special & set(row.labels[chosen].tolist())
        hidden += int((row.input_ids[chosen] == tokenizer.mask_token_id).sum())
        same += int((row.input_ids[chosen] == row.labels[chosen]).sum())
        other += int(((row.input_ids != row.labels) & chosen & (row.input_ids != tokenizer.mask_token_id)).sum())
        assert not special & set(row.input_ids[chosen].tolist()) - {tokenizer.mask_token_id}
        total, length = total + int(chosen.sum()), len(row.labels) - 3
        assert int(chosen.sum()) == round(0.15 * length)
    assert hidden + same + other == total
    assert abs(hidden / total - 0.8) < 0.03
    assert abs(other / total - 0.1) < 0.02
    assert abs(same / total - 0.1) < 0.02


def test_a_short_row_hides_one_token_at_least():
    built = model(MASKED_LM)
    short = replace(samples()[0], turns=(Turn("user", ""), Turn("assistant", "a")))
    row = collator(built, "masked", template="pair").encode(short)
    assert int((row.labels != IGNORE).sum()) == 1


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_images_in_the_sequence_are_seen_and_never_hidden(architecture):
    built = model(MASKED_LM, architecture=architecture)
    collate = collator(built, "masked", template="pair", share=0.5)
    token = built.processor.image_token
    batch = collate(samples(images=True))
    slots = batch["input_ids"] == token.id
    assert slots.sum(dim=1).tolist() == [token.slots] * 3
    assert (batch["targets"][slots] == IGNORE).all()
    built.train()
    built(**batch).loss.backward()
    for part in ("vision", "connector", "language"):
        reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in built.parts[part].parameters()]
        assert sum(reached) >= len(reached) - (4 if part == "language" else 0), part  # not the sentence head
    other = dict(batch, pixel_values=1 - batch["pixel_values"])
    built.eval()
    assert float(built(**other).loss.detach() - built(**batch).loss.detach()) != 0


def test_the_last_token_is_seen_from_the_first():
    built = model(MASKED_LM)
    batch = collator(built, "masked", template="pair")(samples()[:1])
    one = built(**batch, logits_to_keep=0).logits[0, 0]
    last = batch["input_ids"].clone()
    last[0, -2] += 1
    assert not torch.equal(one, built(**{**batch, "input_ids": last}, logits_to_keep=0).logits[0, 0])


def test_a_sample_without_a_label_or_a_second_text_is_refused():
    built = model(MASKED_LM)
    collate = collator(built, "masked", template="pair", next_sentence=True)
    with pytest.raises(DataError) as caught:
        collate([replace(samples()[0], label=None)])
    assert str(caught.value) == (
        "pairs.txt:0: `next_sentence` needs a label of 0 (the second text follows the first) or 1 (is None): use a dataset of "
        "pairs, such as `sentence_pairs`, or leave `next_sentence` out"
    )
    with pytest.raises(DataError, match=r"^pairs.txt:1: it is one text, and `next_sentence` needs two"):
        collator(built, "masked", next_sentence=True)([samples()[1]])
