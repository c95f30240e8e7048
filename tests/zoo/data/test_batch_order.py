"""Orders that look at lengths: every sample once per epoch, budgets kept, alike where they say so, resumable anywhere."""

from collections import Counter
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmzoo.data import BatchStream, Draw, StreamState
from vlmzoo.data.grouping import Budget, Grouped, in_groups, runs, sorting_buffer
from vlmzoo.data.lengths import Lengths
from vlmzoo.data.packing import Packed, best_fit
from vlmzoo.data.randomness import keyed_generator
from vlmzoo.data.stream import Permutation

samples = st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0, 0, 1, 1, 1, 2, 5])), min_size=1, max_size=60)


def lengths_of(drawn):
    tokens, images = zip(*drawn, strict=True)
    return Lengths(tokens, images)


@st.composite
def orders(draw):
    """What `made` makes an order of: samples, what a piece may hold (None: one sample), how they are brought together."""
    budget = Budget(draw(st.integers(60, 200)), draw(st.none() | st.integers(5, 12)), padded=draw(st.booleans()))
    by = draw(st.sampled_from(["none", "length", "modality", "pack"]))
    if by == "pack":
        budget = Budget(budget.tokens, budget.images)
    elif draw(st.booleans()):
        budget = None
    return draw(samples), budget, by, draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(0, 3))


def made(found):
    drawn, budget, by, group, buffer, seed = found
    lengths = lengths_of(drawn)
    if by == "pack":
        return Packed(lengths, budget=budget, group=group, buffer=buffer, seed=seed), lengths, budget
    return Grouped(lengths, by=by, budget=budget, group=group, buffer=buffer, seed=seed), lengths, budget


def cost(piece, lengths, budget):
    tokens = [lengths.tokens[index] for index in piece]
    return max(tokens) * len(tokens) if budget.padded else sum(tokens)


@given(found=orders(), batch=st.integers(1, 9), cut=st.integers(0, 9))
def test_every_sample_once_per_epoch_within_the_budget_and_resumable_at_any_batch_border(found, batch, cut):
    order, lengths, budget = made(found)
    stream = BatchStream(order, batch)
    steps = stream.batches(2) + cut
    batches, states = [], []
    for _ in range(steps):
        states.append(stream.state)
        batches.append(stream.next_batch())
    assert {len(pieces) for pieces in batches} == {batch}
    drawn = Counter(chain.from_iterable(chain.from_iterable(batches)))
    assert {draw: count for draw, count in drawn.items() if draw.epoch < 2} == {
        Draw(epoch, index): 1 for epoch in range(2) for index in range(len(lengths))
    }
    assert max(drawn.values()) == 1
    for piece in chain.from_iterable(batches):
        indexes = [draw.index for draw in piece]
        if budget is None:
            assert len(indexes) == 1
        else:
            assert cost(indexes, lengths, budget) <= budget.tokens
            assert budget.images is None or sum(lengths.images[index] for index in indexes) <= budget.images
    last = [number for number, pieces in enumerate(batches) if any(draw.epoch < 2 for piece in pieces for draw in piece)][-1]
    assert last + 1 == stream.batches(2), "the batches of two epochs are counted exactly"
    place = min(cut, steps - 1)
    resumed = BatchStream(order, batch, state=StreamState(states[place].epoch, states[place].position))
    assert [resumed.next_batch() for _ in range(steps - place)] == batches[place:]


@given(found=orders(), missing=st.integers(0, 9), epoch=st.integers(0, 2))
def test_the_pieces_of_an_epoch_are_as_many_wherever_its_batches_begin(found, missing, epoch):
    order, _, _ = made(found)
    assert sorted(order.pieces(epoch, missing)) == sorted(order.pieces(epoch, 0))
    assert order.pieces(epoch, missing) == order.pieces(epoch, missing)


@given(drawn=samples, group=st.integers(1, 4), missing=st.integers(0, 5), seed=st.integers(0, 2))
def test_what_one_forward_sees_is_of_one_modality(drawn, group, missing, seed):
    lengths = lengths_of(drawn)
    pieces = Grouped(lengths, by="modality", group=group, buffer=10, seed=seed).pieces(0, missing)
    head = missing % group
    groups = [pieces[start : start + group] for start in range(head, len(pieces) - group + 1, group)]
    kinds = [{lengths.images[index] > 0 for (index,) in found} for found in groups]
    mixed = sum(len(kind) == 2 for kind in kinds)
    assert mixed <= 2, "only what fills no group of its kind, and what the batch before was filled up with, may be mixed"
    with_image = sum(count > 0 for count in lengths.images)
    if missing == 0 and with_image % group == 0:
        assert mixed == 0


def test_groups_of_one_length_and_random_order():
    """Neighbours in a group differ little, groups follow each other in any order, and each epoch has another."""
    lengths = lengths_of([(1 + (37 * number) % 1000, 0) for number in range(1000)])
    order = Grouped(lengths, by="length", group=10, buffer=500, seed=0)
    groups = [[lengths.tokens[i] for (i,) in order.pieces(0, 0)[start : start + 10]] for start in range(0, 1000, 10)]
    spread = [max(found) - min(found) for found in groups]
    assert max(spread) < 60 and sum(spread) / len(spread) < 25
    means = [sum(found) / 10 for found in groups]
    assert sum(abs(a - b) for a, b in pairwise(means)) / len(means) > 200
    assert order.pieces(0, 0) != order.pieces(1, 0)
    assert order.pieces(0, 0) != Grouped(lengths, by="length", group=10, buffer=500, seed=1).pieces(0, 0)


def test_runs_take_as_many_as_fit():
    lengths = Lengths((5, 5, 9, 1, 1, 1, 7), (0, 0, 1, 1, 1, 0, 0))
    order = list(range(7))
    assert runs(order, lengths, Budget(20)) == [(0, 1, 2, 3), (4, 5, 6)]
    assert runs(order, lengths, Budget(20, padded=True)) == [(0, 1), (2, 3), (4, 5), (6,)]
    assert runs(order, lengths, Budget(20, 2)) == [(0, 1, 2, 3), (4, 5, 6)]
    assert runs(order, lengths, Budget(20, 1)) == [(0, 1, 2), (3,), (4, 5, 6)]
    assert runs([], lengths, Budget(20)) == []


def test_groups_fall_back_to_mixed_ones_where_nothing_fills_one():
    kinds = [[(0,), (1,)], [(2,)]]
    assert in_groups(kinds, 4, 2, keyed_generator(0)) == [(0,), (1,), (2,)]
    assert in_groups([[(0,), (1,), (2,), (3,)]], 4, 3, keyed_generator(0)) == [(0,), (1,), (2,), (3,)]
    assert in_groups([], 4, 3, keyed_generator(0)) == []


def llava_like(count):
    """Text of many lengths beside images of 576 slots, one sample in 16 without an image."""
    order = Permutation(count, seed=5).indexes(0)
    text = [30 + int(1200 * ((7919 * number) % count / count) ** 3) for number in range(count)]
    images = [int(place % 16 > 0) for place in order]
    return Lengths(tuple(t + 576 * i for t, i in zip(text, images, strict=True)), tuple(images))


def test_packs_are_nearly_full_balanced_in_images_and_random():
    lengths = llava_like(8000)
    packs = Packed(lengths, budget=Budget(8192), group=8, buffer=1000, seed=0).pieces(0, 0)
    held = [sum(lengths.tokens[index] for index in pack) for pack in packs]
    assert sum(held) / (len(packs) * 8192) > 0.98
    images = [sum(lengths.images[index] for index in pack) for pack in packs]
    groups = [images[start : start + 8] for start in range(0, len(images) - 7, 8)]
    assert sum(max(found) * 8 / sum(found) for found in groups) / len(groups) < 1.1
    order = Permutation(8000, seed=0).indexes(0)
    place = {index: number for number, index in enumerate(order)}
    unsorted = best_fit(order, lengths, Budget(8192), 1000)
    moved = [abs(place[index] - number) for number, index in enumerate(chain.from_iterable(unsorted))]
    assert max(moved) < 1000 and sorted(moved)[4000] < 100


def test_packs_of_samples_that_fill_them_exactly_have_no_room_left():
    lengths = Lengths((30, 70) * 50, (1, 0) * 50)
    packs = best_fit(list(range(100)), lengths, Budget(100), 20)
    assert {sum(lengths.tokens[index] for index in pack) for pack in packs} == {100}
    few = best_fit(list(range(100)), lengths, Budget(1000, 2), 20)
    assert {sum(lengths.images[index] for index in pack) for pack in few} == {2} and len(few) == 25


@pytest.mark.parametrize("order", [Permutation, None])
def test_a_state_of_other_data_is_refused(order):
    made = (
        Permutation(5, seed=0) if order else Packed(Lengths((5,) * 9, (0,) * 9), budget=Budget(10), group=1, buffer=4, seed=0)
    )
    with pytest.raises(Exception, match="go on at piece 7 of epoch 1, but the data makes 5 of them"):
        BatchStream(made, 2, state=StreamState(1, 7))


def test_fifty_groups_are_sorted_together_and_never_all_samples():
    many, few = Lengths((100,) * 10_000, (0,) * 10_000), Lengths((100,) * 40, (0,) * 40)
    assert sorting_buffer(many, 16, None) == 800
    assert sorting_buffer(many, 4, Budget(1000)) == 2000, "ten samples fit into a piece"
    assert sorting_buffer(few, 16, None) == 10
    assert sorting_buffer(Lengths((100,), (0,)), 16, Budget(10)) == 1
