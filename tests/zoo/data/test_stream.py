"""Every sample once per epoch, batches of one size, and the same order after any resume."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmzoo.data import BatchStream, Draw, Permutation, StreamState, keyed_generator
from vlmzoo_registry import ConfigError, DataError


@settings(max_examples=60, deadline=None)
@given(length=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 3), cut=st.integers(0, 12))
def test_every_sample_once_per_epoch_and_resumable_anywhere(length, batch, seed, cut):
    stream = BatchStream(Permutation(length, seed=seed), batch)
    batches = [stream.next_batch() for _ in range(cut + len(stream))]
    assert {len(pieces) for pieces in batches} == {batch}
    assert len(stream) == stream.batches(1) and length <= stream.batches(1) * batch < length + batch
    assert [3 * length <= count * batch for count in (stream.batches(3) - 1, stream.batches(3))] == [False, True]
    draws = [draw for pieces in batches for (draw,) in pieces]
    for epoch in range(len(draws) // length):
        part = draws[epoch * length : (epoch + 1) * length]
        assert Counter(part) == Counter(Draw(epoch, index) for index in range(length))
    first = BatchStream(Permutation(length, seed=seed), batch)
    for _ in range(cut):
        first.next_batch()
    resumed = BatchStream(Permutation(length, seed=seed), batch, state=StreamState(first.state.epoch, first.state.position))
    assert [resumed.next_batch() for _ in range(len(stream))] == batches[cut:]


def test_order_depends_on_seed_and_epoch_and_on_no_global_draw():
    torch.manual_seed(0)
    first = BatchStream(Permutation(50, seed=1), 50)
    orders = [first.next_batch() for _ in range(2)]
    torch.manual_seed(7)
    again = BatchStream(Permutation(50, seed=1), 50)
    state = torch.get_rng_state()
    assert again.next_batch() == orders[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert [draw.index for (draw,) in orders[0]] != [draw.index for (draw,) in orders[1]]
    assert BatchStream(Permutation(50, seed=2), 50).next_batch() != orders[0]
    assert [draw.index for (draw,) in orders[0]] != list(range(50))


def test_keys_do_not_run_together():
    def draw(*key):
        return torch.rand(1, generator=keyed_generator(*key)).item()

    assert draw(1, 23, "order") == draw(1, 23, "order")
    assert (
        len({draw(1, 23, "order"), draw(12, 3, "order"), draw(1, 23, "flip"), draw("1", 23, "order"), draw(1, "23,order")}) == 5
    )


def test_refusals_say_both_numbers():
    with pytest.raises(DataError, match=r"`length` \(=0\) must be at least 1"):
        BatchStream(Permutation(0, seed=0), 4)
    with pytest.raises(ConfigError, match=r"`batch_size` \(=0\) must be at least 1"):
        BatchStream(Permutation(4, seed=0), 0)
    with pytest.raises(DataError, match="go on at piece 9 of epoch 2, but the data makes 5 of them"):
        BatchStream(Permutation(5, seed=0), 2, state=StreamState(2, 9))
