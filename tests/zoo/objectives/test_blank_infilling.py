"""Blank infilling: where tokens stand, who sees whom cell by cell, and the loss as the product of the paper's conditionals."""

from dataclasses import replace
from itertools import pairwise
from math import exp, factorial

import pytest
import torch
from objective_models import GLM, MASKED_LM, collator, model, samples
from torch import Tensor
from transformers import LlamaForCausalLM

from vlmzoo.data.encode import IGNORE
from vlmzoo.model.vlm import VLM
from vlmzoo_registry import ConfigError, DataError, Sample, TokenRow, Turn
from vlmzoo_registry.infilling import END, START
from vlmzoo_tasks.blank_infilling import draw_spans
from vlmzoo_transformers.config import CausalLMConfig


def row_of(built: VLM, *, epoch: int = 0, images: bool = False, share: float = 0.3) -> TokenRow:
    sample = replace(samples(images=images)[1], epoch=epoch)
    return collator(built, "blank_infilling", template="pair", share=share).encode(sample)


def pieces(row: TokenRow, built: VLM) -> tuple[list[int], list[tuple[list[int], list[int], int]]]:
    """Part A, and of each span in part B: what it reads, what it says, and where it stands."""
    start = built.processor.tokenizer.convert_tokens_to_ids(START)
    ids, labels = row.input_ids.tolist(), row.labels.tolist()
    borders = [place for place, token in enumerate(ids) if token == start] + [len(ids)]
    spans = [(ids[a:b], labels[a:b], int(row.position_ids[a])) for a, b in pairwise(borders)]
    return ids[: row.prefix], spans


@pytest.mark.parametrize("epoch", range(8))
def test_the_spans_in_their_places_are_the_text(epoch):
    built = model(GLM)
    tokenizer = built.processor.tokenizer
    row = row_of(built, epoch=epoch)
    part_a, spans = pieces(row, built)
    end = tokenizer.convert_tokens_to_ids(END)
    filled = {place: says[:-1] for _, says, place in spans}
    whole = [token for place, one in enumerate(part_a) for token in filled.get(place, [one])]
    assert tokenizer.decode(whole) == "A small boat lies there.<eos>Nobody crossed for a week, they say.<eos>"
    assert [part_a[place] for place in filled] == [tokenizer.mask_token_id] * len(spans)
    for reads, says, _ in spans:
        assert reads[1:] == says[:-1]
        assert says[-1] == end
    taken = sum(len(says) - 1 for _, says, _ in spans)
    assert taken == round(0.3 * (len(whole) - 2 - 1))  # no special token, and not the first, which is never learnt


def test_two_channels_of_positions_say_where_a_token_stands():
    built = model(GLM)
    row = row_of(built)
    part_a, spans = pieces(row, built)
    count = len(part_a)
    assert row.prefix == count
    assert row.position_ids[:count].tolist() == list(range(count))
    assert row.span_positions[:count].tolist() == [0] * count
    assert (row.labels[:count] == IGNORE).all()
    expected = [(place, 1 + inside) for reads, _, place in spans for inside in range(len(reads))]
    assert list(zip(row.position_ids[count:].tolist(), row.span_positions[count:].tolist(), strict=True)) == expected


def test_spans_come_in_random_order_and_the_draws_hang_on_the_key():
    built = model(GLM)
    orders = set()
    for epoch in range(12):
        row = row_of(built, epoch=epoch, share=0.1)
        places = [place for _, _, place in pieces(row, built)[1]]
        orders.add(places == sorted(places))
        assert torch.equal(row.input_ids, row_of(built, epoch=epoch, share=0.1).input_ids)
    assert orders == {True, False}
    assert not torch.equal(row_of(built, epoch=0).input_ids, row_of(built, epoch=1).input_ids)


def test_lengths_are_poisson_numbers_above_0():
    generator = torch.Generator().manual_seed(0)
    lengths = [end - start for _ in range(400) for start, end in draw_spans([True] * 400, 0.15, 3.0, generator)]
    for length in range(1, 7):
        expected = 3.0**length * exp(-3) / factorial(length) / (1 - exp(-3))
        assert abs(lengths.count(length) / len(lengths) - expected) < 0.02, length
    assert sum(lengths) == 400 * 60


def test_spans_keep_off_what_must_stay():
    generator = torch.Generator().manual_seed(0)
    free = [place % 5 != 0 for place in range(100)]
    for _ in range(50):
        spans = draw_spans(free, 0.5, 6.0, generator)
        taken = [place for start, end in spans for place in range(start, end)]
        assert len(taken) == len(set(taken)) == 40
        assert all(free[place] for place in taken)


def visible(row: TokenRow, built: VLM) -> Tensor:
    """Which input moves the hidden state of which position, found by the gradient, cell by cell: [S, S]."""
    batch = collator(built, "blank_infilling", template="pair", share=0.3)
    embeddings = built.language.embedding(row.input_ids[None]).detach().requires_grad_()
    count = len(row.input_ids)
    hidden = built.language.decode(
        embeddings,
        attention_mask=torch.ones(1, count, dtype=torch.long),
        position_ids=row.position_ids[None],
        prefix_mask=(torch.arange(count) < row.prefix)[None],
        span_positions=row.span_positions[None],
    )
    assert batch.objective.attention == "prefix"
    found = torch.zeros(count, count, dtype=torch.bool)
    for position in range(count):
        (gradient,) = torch.autograd.grad(hidden[0, position].sum(), embeddings, retain_graph=True)
        found[position] = gradient[0].abs().sum(dim=1) > 0
    return found


@pytest.mark.parametrize("language", [GLM, {**MASKED_LM, "span_positions": 16}], ids=["llama", "bert"])
def test_the_mask_matrix_is_that_of_the_paper_cell_by_cell(language):
    built = model(language)
    row = row_of(built)
    count = len(row.input_ids)
    wanted = [
        [column < row.prefix or (line >= row.prefix and column <= line) for column in range(count)] for line in range(count)
    ]
    found = visible(row, built).tolist()
    wrong = [(i, j) for i in range(count) for j in range(count) if found[i][j] != wanted[i][j]]
    assert wrong == []


def slow_loss(row: TokenRow, built: VLM) -> float:
    """The paper's objective by its definition: each conditional by a forward of its own, over what stands before it.

    A Llama of transformers with the same weights, a mask written cell by cell, embeddings summed here.
    """
    config = built.language.text_config
    published = LlamaForCausalLM(config).double().eval()
    published.load_state_dict(built.language.model.state_dict())
    table = built.language.span_table.weight.detach().double()
    total, said = 0.0, 0
    for place in range(row.prefix, len(row.input_ids)):
        seen = place + 1
        embeddings = published.get_input_embeddings()(row.input_ids[:seen])[None] + table[row.span_positions[:seen]][None]
        mask = torch.full((1, 1, seen, seen), float("-inf"), dtype=torch.float64)
        for line in range(seen):
            for column in range(seen):
                if column < row.prefix or column <= line:
                    mask[0, 0, line, column] = 0.0
        logits = published(inputs_embeds=embeddings, attention_mask=mask, position_ids=row.position_ids[None, :seen]).logits
        total -= float(logits[0, -1].log_softmax(dim=0)[row.labels[place]].detach())
        said += 1
    return total / said


def test_the_loss_is_the_product_of_the_conditionals():
    built = model(GLM)
    for epoch in range(3):
        row = row_of(built, epoch=epoch)
        batch = collator(built, "blank_infilling", template="pair", share=0.3)([replace(samples()[1], epoch=epoch)])
        found = float(built(**batch).loss.detach())
        assert found == pytest.approx(slow_loss(row, built), rel=1e-5, abs=1e-5)


def test_rows_of_a_batch_have_the_loss_they_have_alone():
    built = model(GLM)
    collate = collator(built, "blank_infilling", template="pair", share=0.3)
    rows = samples()
    together = built(**collate(rows))
    alone = [built(**collate([one])) for one in rows]
    count = [int((collate.encode(one).labels != IGNORE).sum()) for one in rows]
    expected = sum(float(one.loss.detach()) * number for one, number in zip(alone, count, strict=True)) / sum(count)
    assert float(together.loss.detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("architecture", ["unified", "cross_attention"])
def test_images_stay_in_part_a_and_are_learnt_from(architecture):
    built = model(GLM, architecture=architecture)
    collate = collator(built, "blank_infilling", template="pair", share=0.5)
    batch = collate(samples(images=True))
    token = built.processor.image_token
    slots = batch["input_ids"] == token.id
    assert slots.sum(dim=1).tolist() == [token.slots] * 3
    assert batch["prefix_mask"][slots].all()
    built.train()
    built(**batch).loss.backward()
    reached = [bool(p.grad is not None and p.grad.abs().sum() > 0) for p in built.connector.parameters()]
    assert all(reached)


def test_a_span_longer_than_its_places_is_refused_with_both_numbers():
    built = model({**GLM, "span_positions": 2})
    collate = collator(built, "blank_infilling", template="pair", share=0.9, mean_length=20)
    with pytest.raises(DataError, match=r"^a span of \d+ tokens and its start need \d+ positions, and `span_positions` \(=2\)"):
        built(**collate(samples()))


def test_spans_without_a_prefix_are_refused():
    with pytest.raises(ValueError, match=r"`span_positions` \(=4\) needs a `prefix`"):
        CausalLMConfig(config={"model_type": "llama"}, span_positions=4)


def test_a_family_without_positions_is_refused():
    bloom = {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 270}
    with pytest.raises(ConfigError, match=r"takes no positions|takes no mask"):
        model({"name": "transformers/causal-lm", "config": bloom, "prefix": "optional", "span_positions": 4})


def test_special_tokens_alone_are_refused_by_name():
    built = model(GLM)
    with pytest.raises(DataError, match=r"^x:1: "):
        collator(built, "blank_infilling")([Sample("1", (Turn("assistant", " "),), (), "x:1")])
