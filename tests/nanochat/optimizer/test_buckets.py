"""However parameters are cut, everything has one place and one owner."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.optimizer.buckets import lay_out


def test_buckets_are_filled_from_the_models_end_and_the_first_takes_the_rest():
    layout = lay_out([3, 3, 3, 3, 3], world_size=1, bucket_size=6)
    assert [list(bucket.members) for bucket in layout.buckets] == [[0], [1, 2], [3, 4]]
    assert layout.starts == (0, 3, 6, 9, 12)
    assert (layout.num_items, layout.num_own) == (15, 15)


def test_a_bucket_is_cut_like_torch_chunk_and_padded_to_equal_parts():
    layout = lay_out([8, 8], world_size=3, bucket_size=8)
    first, second = layout.buckets
    assert (first.per_rank, first.start, first.own_start) == (3, 0, 0)
    assert (second.per_rank, second.start, second.own_start) == (3, 9, 3)
    assert [first.num_real(rank) for rank in range(3)] == [3, 3, 2]
    assert (layout.num_items, layout.num_own) == (18, 6)


def test_ranks_past_the_last_item_own_padding_alone():
    (bucket,) = lay_out([3], world_size=5, bucket_size=1).buckets
    assert (bucket.per_rank, [bucket.num_real(rank) for rank in range(5)]) == (1, [1, 1, 1, 0, 0])


_SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(_SIZES, st.integers(1, 7), st.integers(1, 120), st.sampled_from([1, 16]))
def test_every_item_has_one_place_and_one_owner(sizes: list[int], world_size: int, bucket_size: int, alignment: int):
    layout = lay_out(sizes, world_size=world_size, bucket_size=bucket_size, alignment=alignment)
    assert [i for bucket in layout.buckets for i in bucket.members] == list(range(len(sizes)))
    assert all(start % alignment == 0 for start in layout.starts)
    end = own_end = 0
    for bucket in layout.buckets:
        assert bucket.start >= end
        assert bucket.own_start == own_end
        assert sum(bucket.num_real(rank) for rank in range(world_size)) == bucket.num_items
        places = [(layout.starts[i], layout.starts[i] + sizes[i]) for i in bucket.members]
        assert places[0][0] == bucket.start
        assert all(stop <= start for (_, stop), (start, _) in pairwise(places))
        assert places[-1][1] <= bucket.start + bucket.num_items
        end, own_end = bucket.start + bucket.per_rank * world_size, own_end + bucket.per_rank
    assert end <= layout.num_items
    assert own_end == layout.num_own


@given(_SIZES, st.integers(2, 7), st.integers(1, 120))
def test_the_cut_does_not_depend_on_the_number_of_ranks(sizes: list[int], world_size: int, bucket_size: int):
    alone = lay_out(sizes, world_size=1, bucket_size=bucket_size)
    of_ranks = lay_out(sizes, world_size=world_size, bucket_size=bucket_size)
    assert [(b.members, b.num_items) for b in alone.buckets] == [(b.members, b.num_items) for b in of_ranks.buckets]


@pytest.mark.parametrize("bucket_size", [1, 10, 1000])
def test_alone_a_rank_owns_the_buffer_as_it_is(bucket_size: int):
    layout = lay_out([5, 20, 7], world_size=1, bucket_size=bucket_size, alignment=16)
    assert [b.start for b in layout.buckets] == [b.own_start for b in layout.buckets]
    assert layout.num_items == layout.num_own
