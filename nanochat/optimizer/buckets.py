"""How the parameters of a group are laid out in its flat buffer, and which of their items are a rank's own.

An item is what is never cut: a matrix of a Muon group, a number of an AdamW group. Parameters are in the model's order,
cut into buckets of neighbours, each of which is reduced and gathered by itself: backward goes through the model from
its end, so the last bucket's gradients are final, and can travel, long before the first's.

Of each bucket every rank owns ceil(n / W) items, as torch.chunk would cut it, so no size has to divide by the number of
ranks; past the bucket's end they are padding, zeros that stay zeros. A rank's own items of all buckets are in one
buffer too, without gaps, so an update works on all of them at once. The cut does not depend on the number of ranks:
what is stored per bucket fits any other number.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bucket:
    """Neighbouring parameters and their place, in items."""

    members: range  # indices of the group's parameters
    num_items: int
    per_rank: int
    start: int  # in the group's buffer, where it takes per_rank x W items
    own_start: int  # in a rank's own buffer, where it takes per_rank items

    def num_real(self, rank: int) -> int:
        """How many of the rank's own items are no padding."""
        return max(0, min(self.per_rank, self.num_items - rank * self.per_rank))


@dataclass(frozen=True)
class Layout:
    """A group's buffer."""

    buckets: tuple[Bucket, ...]
    starts: tuple[int, ...]  # of each parameter, in the group's buffer
    num_items: int  # of the group's buffer
    num_own: int  # of a rank's own buffer


def lay_out(sizes: Sequence[int], *, world_size: int, bucket_size: int, alignment: int = 1) -> Layout:
    """Places parameters of `sizes` items into buckets of at least `bucket_size`, all but the first one.

    Every parameter starts at a multiple of `alignment` items.
    """
    buckets: list[Bucket] = []
    starts: list[int] = []
    num_items = num_own = 0
    for members in _cut(sizes, bucket_size):
        taken = 0
        for size in (sizes[i] for i in members):
            starts.append(num_items + taken)
            taken += _round_up(size, alignment)
        per_rank = -(-taken // world_size)
        buckets.append(Bucket(members, taken, per_rank, num_items, num_own))
        num_items += _round_up(per_rank * world_size, alignment)
        num_own += per_rank
    return Layout(tuple(buckets), tuple(starts), num_items, num_own)


def _cut(sizes: Sequence[int], bucket_size: int) -> list[range]:
    """Cuts from the end, so that what is left over, and final last, is the smallest."""
    found: list[range] = []
    stop = len(sizes)
    for first in reversed(range(len(sizes))):
        if first == 0 or sum(sizes[first:stop]) >= bucket_size:
            found.append(range(first, stop))
            stop = first
    return found[::-1]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
