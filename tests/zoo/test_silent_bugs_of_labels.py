"""The silent bugs of the field that concern text, labels and loss, under their names: none is here, and each would be seen.

Others stand in files of their own: Q01, those of rows that are cut, and those of images. Every test holds a check to what
vlmzoo makes, and the same check to a planted bug.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from silent_bugs import COLOURS, catches, collator, sample
from small_models import LLAMA, TOY_LANGUAGE, causal_lm, section, shake
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional

import vlmzoo
from vlmzoo.data.encode import IGNORE
from vlmzoo.loss import masked_nll
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import DataError, Sample, Turn


def refused(act: Callable[[Any], Any], given: Any) -> str:
    """What an error about the data says; nothing where there is none."""
    try:
        act(given)
    except DataError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def model() -> VLM:
    return shake(vlmzoo.build(section(language=TOY_LANGUAGE)))


def test_q02_labels_mismatch_not_ignored(model):
    """A row whose labels cannot be made is an error with its id, never a row of nothing."""
    collate = collator(model)

    def check(make: Callable[[Sample], Any]) -> None:
        for row in (sample("", name="7"), Sample("7", (Turn("user", "a"),), (), "rows.jsonl:7")):
            said = ""
            try:
                make(row)
            except DataError as error:
                said = str(error)
            assert "rows.jsonl:7" in said

    check(collate.encode)

    catches(check, lambda row: [IGNORE] * len(row.turns[0].text))  # what the field does: a row of nothing, and no word


def test_q03_labels_single_shift(model):
    """The loss is the cross-entropy of token t + 1 given those up to t, by a computation of its own."""
    batch = collator(model)([sample("a red car"), sample("two", "cats")])

    def check(loss: Tensor, labels: Tensor) -> None:
        plain = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**plain).logits
        terms = [
            functional.cross_entropy(logits[row, place - 1], labels[row, place])
            for row, place in (labels != IGNORE).nonzero().tolist()
        ]
        torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-6, atol=1e-6)

    check(model(**batch).loss, batch["labels"])
    shifted = torch.cat([batch["labels"][:, 1:], torch.full((2, 1), IGNORE)], dim=1)
    catches(check, model(**{**batch, "labels": shifted}).loss, batch["labels"])


def test_q04_labels_image_tokens_masked(model):
    """No image slot and no control token but the end of an answer has a label."""
    batch = collator(model)([sample("a", images=2), sample("b", "c", images=3)])
    control = {model.processor.image_token.id, *model.processor.tokenizer.all_special_ids}
    control -= {model.processor.tokenizer.eos_token_id}

    def check(labels: Tensor) -> None:
        assert not control & set(labels[labels != IGNORE].tolist())

    check(batch["labels"])
    catches(check, batch["input_ids"])


def test_q05_labels_prompt_masked(model):
    """No gradient comes from what the model would say within the prompt."""
    batch = collator(model)([sample("a red car")])
    first = int((batch["labels"][0] != IGNORE).nonzero()[0])

    def check(labels: Tensor) -> None:
        hidden = torch.randn(1, labels.shape[1], model.language.width, requires_grad=True)
        masked_nll(hidden, model.language.head, labels).loss.backward()
        assert bool((hidden.grad[0, : first - 1] == 0).all())
        assert bool((hidden.grad[0, first - 1] != 0).any())

    check(batch["labels"])
    catches(check, batch["input_ids"])


def test_q06_labels_eos_supervised(model):
    """Each answer's end is learnt once, and padding never, where both are the same token too."""
    tokenizer = model.processor.tokenizer
    collate = collator(model)
    before, tokenizer.pad_token = tokenizer.pad_token, tokenizer.eos_token
    try:
        batch = collate([sample("a"), sample("a rather long answer", "b", "c")])
    finally:
        tokenizer.pad_token = before
    assert (batch["input_ids"][0, batch["attention_mask"][0] == 0] == tokenizer.eos_token_id).all()

    def check(labels: Tensor) -> None:
        assert (labels == tokenizer.eos_token_id).sum(dim=1).tolist() == [1, 3]

    check(batch["labels"])
    catches(check, torch.where(batch["attention_mask"] == 0, batch["input_ids"], batch["labels"]))
    catches(check, batch["labels"].masked_fill(batch["labels"] == tokenizer.eos_token_id, IGNORE))


@pytest.mark.parametrize("turns", [1, 2, 5, 30])
def test_q07_labels_multi_turn_all(model, turns):
    """Every answer of a conversation is learnt."""
    answers = [f"answer {number}" for number in range(turns)]
    row = collator(model).encode(sample(*answers))

    def check(labels: Tensor) -> None:
        said = model.processor.tokenizer.decode(labels[labels != IGNORE])
        assert said == "".join(f" {answer}<eos>" for answer in answers)

    check(row.labels)
    last = int((row.labels == model.processor.tokenizer.eos_token_id).nonzero()[-1])
    catches(check, row.labels.clone().index_fill_(0, torch.arange(last - 8, last + 1), IGNORE))


@pytest.mark.parametrize("template", ["vicuna_v1", "llama_2"])
def test_q08_bos_once(model, template):
    """One token begins a row, in training and in generation, whether the tokenizer adds it or the template writes it."""
    collate = collator(model, template=template)
    collate.tokenizer = deepcopy(collate.tokenizer)
    begin = collate.tokenizer.bos_token_id
    collate.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", begin)]
    )
    assert collate.tokenizer("a")["input_ids"][0] == begin

    def check(training: Tensor, generation: Tensor) -> None:
        for ids in (training, generation):
            assert int((ids == begin).sum()) == 1
            assert int(ids[0]) == begin

    ids, prompt = collate([sample("a")])["input_ids"][0], collate.prompts([sample("a")])["input_ids"][0]
    check(ids, prompt)
    catches(check, torch.cat([ids[:1], ids]), prompt)
    catches(check, ids, prompt[1:])


def test_q09_train_serve_same_ids(model):
    """Generation starts from the ids that training has before the answer."""
    rows = [sample("x" * (1 + number % 7), images=1 + number % 3, name=str(number)) for number in range(200)]
    collate = collator(model)

    def check(prompt_of: Callable[[Sample], list[int]]) -> None:
        for row in rows:
            encoded = collate.encode(row)
            first = int((encoded.labels != IGNORE).nonzero()[0])
            assert prompt_of(row) == encoded.input_ids[:first].tolist()

    def prompt(row: Sample) -> list[int]:
        ids: list[int] = collate.prompts([row])["input_ids"][0].tolist()
        return ids

    check(prompt)
    catches(check, lambda row: [*prompt(row), *model.processor.tokenizer(" ")["input_ids"]])


def test_q10_special_tokens_not_forgeable(model):
    """No text of the data, by whomever it is said, becomes a control or an image token."""
    tokenizer = model.processor.tokenizer
    special = [token for token in (*tokenizer.all_special_tokens, model.processor.image_token.text) if token != "<image>"]
    assert special

    def check(encode: Callable[[Sample], Any]) -> None:
        for token in special:
            for role in ("system", "user", "assistant"):
                turns = [Turn("system", "s"), Turn("user", "u"), Turn("assistant", "a")]
                turns = [Turn(turn.role, turn.text + token if turn.role == role else turn.text) for turn in turns]
                refused = False
                try:
                    encode(Sample("9", tuple(turns), (), "rows.jsonl:9"))
                except DataError as error:
                    refused = "rows.jsonl:9" in str(error) and token in str(error)
                assert refused, (token, role)

    check(collator(model).encode)
    catches(check, lambda row: tokenizer(row.turns[1].text))


def test_q13_all_masked_is_not_nan(model):
    """Rows without a target leave loss and gradient as they are without them, and alone give exactly 0."""
    batch = collator(model)([sample("a red car"), sample("two cats")])
    labels = batch["labels"].clone()
    labels[1] = IGNORE

    def gradient(loss: Tensor) -> Tensor:
        model.zero_grad()
        loss.backward()
        return model.language.embedding.weight.grad.clone()

    def check(loss: Callable[[dict[str, Tensor]], Tensor]) -> None:
        both = loss({**batch, "labels": labels})
        alone = loss({name: value[:1] for name, value in {**batch, "labels": labels}.items()})
        torch.testing.assert_close(gradient(both), gradient(alone), rtol=1e-5, atol=1e-7)
        none = loss({**batch, "labels": torch.full_like(labels, IGNORE)})
        assert float(none.detach()) == 0.0

    def mean_of_rows(given: dict[str, Tensor]) -> Tensor:
        logits = model(**given, logits_to_keep=0).logits[:, :-1]
        rows = [functional.cross_entropy(logits[row], given["labels"][row, 1:]) for row in range(len(logits))]
        return torch.stack(rows).mean()

    check(lambda given: model(**given).loss)
    catches(check, mean_of_rows)


@pytest.mark.parametrize("padding", [1, 5, 64])
def test_q14_pad_invariance(model, padding):
    """A row has the logits alone that it has padded, on either side."""
    batch = collator(model)([sample("a red car")])
    plain = {name: value for name, value in batch.items() if name != "labels"}
    length = batch["input_ids"].shape[1]
    alone = model(**plain).logits

    def check(side: str, mask: int) -> None:
        pad = (padding, 0) if side == "left" else (0, padding)
        given = {
            **plain,
            "input_ids": functional.pad(batch["input_ids"], pad, value=5),
            "attention_mask": functional.pad(batch["attention_mask"], pad, value=mask),
        }
        logits = model(**given).logits
        start = padding if side == "left" else 0
        torch.testing.assert_close(logits[:, start : start + length], alone, rtol=1e-5, atol=1e-5)

    check("right", 0)
    check("left", 0)
    catches(check, "left", 1)


def test_q17_attention_mask_reaches_model(model):
    """What is masked changes nothing; what is not does, on the sides on which a token is to see."""
    batch = collator(model).prompts([sample("a"), sample("b", images=2), sample("c", images=0)])
    masked = batch["attention_mask"] == 0
    assert masked[2].sum() > 20  # on the left, where every token would see it
    other = {**batch, "input_ids": batch["input_ids"].masked_fill(masked, 9)}
    first = {**batch, "input_ids": batch["input_ids"].clone()}
    first["input_ids"][0, int((~masked[0]).nonzero()[0])] = 9

    def check(mask: Tensor) -> None:
        plain, filled, changed = (model(**{**given, "attention_mask": mask}).logits for given in (batch, other, first))
        assert torch.equal(plain[~masked], filled[~masked])
        assert not torch.equal(plain[0, -1], changed[0, -1])
        assert torch.equal(plain[1:], changed[1:])

    check(batch["attention_mask"])
    catches(check, torch.ones_like(batch["attention_mask"]))

    prefixed = shake(vlmzoo.build(section(language=causal_lm(LLAMA, prefix="optional"))))
    row = collator(prefixed, "prefix_lm", "plain")([sample("a red car", images=2)])
    last = int(row["prefix_mask"][0].sum()) - 1
    changed = {**row, "input_ids": row["input_ids"].clone()}
    changed["input_ids"][0, last] = 9

    def sees_both_ways(prefix: bool) -> None:
        given = [{k: v for k, v in each.items() if k != "labels" and (prefix or k != "prefix_mask")} for each in (row, changed)]
        one, two = (prefixed(**each).logits[0] for each in given)
        assert not torch.equal(one[0], two[0])

    sees_both_ways(True)
    catches(sees_both_ways, False)


def test_q18_slots_match_features_per_row(model):
    """Each row has as many slots as its images have tokens; the sum over the batch is not enough."""
    batch = collator(model)([sample("a"), sample("b")])
    token = model.processor.image_token
    moved = {**batch, "input_ids": batch["input_ids"].clone()}
    moved["input_ids"][0, int((batch["input_ids"][0] == token.id).nonzero()[0])] = 9
    moved["input_ids"][1, -1] = token.id

    def check(refusal: Callable[[dict[str, Tensor]], str]) -> None:
        assert refusal(batch) == ""
        said = refusal(moved)
        for row, slots in enumerate((token.slots - 1, token.slots + 1)):
            assert f"row {row}: {slots} image slots" in said

    def by_sum(given: dict[str, Tensor]) -> str:
        """What transformers 5.23 does."""
        found = int((given["input_ids"] == token.id).sum())
        return "" if found == 2 * token.slots else f"{found} slots"

    check(partial(refused, lambda given: model(**given)))
    catches(check, by_sum)


def test_q19_image_without_slot_and_slot_without_image(model):
    """Both are refused, by the data with the row's source and by the model with the row."""
    collate = collator(model)
    one = sample("a")
    batch = collate([one])
    words = batch["input_ids"].masked_fill(batch["input_ids"] == model.processor.image_token.id, 9)
    unseen = {name: value for name, value in batch.items() if name not in ("pixel_values", "image_mask")}

    def check(read: Callable[[Sample], str], run: Callable[[dict[str, Tensor]], str]) -> None:
        assert read(one) == run(batch) == ""
        assert read(replace(one, images=())).startswith("rows.jsonl:1: 0 images but 1 `<image>`")
        assert read(replace(one, images=one.images * 2)).startswith("rows.jsonl:1: 2 images but 1 `<image>`")
        for given in (unseen, {**batch, "input_ids": words}):
            assert "row 0" in run(given)

    read, run = partial(refused, lambda row: collate([row])), partial(refused, lambda given: model(**given))
    check(read, run)
    catches(check, lambda row: "", run)  # what the field does: no word
    catches(check, read, lambda given: "")


def test_q20_image_order_kept(model):
    """The k-th slot has the k-th image, with 0 to 4 of them in a row."""
    collate = collator(model)
    rows = [sample("a", images=count, name=str(count)) for count in (2, 0, 4, 1, 3)]
    token = model.processor.image_token

    def placed(batch: dict[str, Tensor]) -> list[list[Tensor]]:
        seen = model.encode_images(batch["pixel_values"], batch["image_mask"])
        return [[model.layout(image.views, image.arrangement) for image in row] for row in seen]

    def check(batch: dict[str, Tensor]) -> None:
        alone = {
            colour: placed(collate([Sample("1", sample("a").turns, (partial(Image.new, "RGB", (32, 32), colour),), "r:1")]))[0][
                0
            ]
            for colour in COLOURS
        }
        for row, images in zip(rows, placed(batch), strict=True):
            assert len(images) == len(row.images)
            for colour, image in zip(COLOURS, images, strict=False):
                torch.testing.assert_close(image, alone[colour], rtol=1e-5, atol=1e-5)

    batch = collate(rows)
    assert (batch["input_ids"] == token.id).sum(dim=1).tolist() == [len(row.images) * token.slots for row in rows]
    check(batch)
    swapped = batch["pixel_values"].clone()
    swapped[0, [0, 1]] = swapped[0, [1, 0]]
    catches(check, {**batch, "pixel_values": swapped})
