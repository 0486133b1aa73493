"""QuACK's FP8 products take the fast accumulation, and are not used if they no longer know it."""

import pytest

from nanochat.kernels.hopper import default_to_true


class _Kernel:
    def __init__(self, tile: int, fast: bool = False, *, stages: int = 2) -> None:
        self.seen = (tile, fast, stages)


def test_a_default_is_turned_and_what_a_call_says_counts() -> None:
    class Kernel(_Kernel):
        pass

    default_to_true(Kernel, "fast")
    assert Kernel(1).seen == (1, True, 2)
    assert Kernel(1, False).seen == Kernel(tile=1, fast=False).seen == (1, False, 2)
    assert Kernel(1, stages=3).seen == (1, True, 3)
    assert _Kernel(1).seen == (1, False, 2), "only the class that was asked for"


def test_a_library_that_has_lost_the_switch_is_not_used_silently() -> None:
    with pytest.raises(RuntimeError, match="has no parameter fp8"):
        default_to_true(_Kernel, "fp8")
