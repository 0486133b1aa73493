"""Rows survive storage: any numbers, any text, a tear at any byte, attempts that overlap."""

import json
import math
from collections.abc import Callable
from typing import Any, get_type_hints

from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.stats import StepStats
from sweeps.records.rows import StepRow, decode_rows, encode_rows

numbers = st.floats(allow_nan=True, allow_infinity=True)
_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**53),
    float: numbers,
    float | None: st.none() | numbers,
    int | None: st.none() | st.integers(0, 2**53),
    str: st.text(max_size=5),
    str | None: st.none() | st.text(max_size=5),
    tuple[str, ...]: st.lists(st.text(max_size=5), max_size=3).map(tuple),
    tuple[float, ...] | None: st.none() | st.lists(numbers, max_size=3).map(tuple),
}
rows = st.builds(StepRow, **{name: _VALUES[kind] for name, kind in get_type_hints(StepRow).items()})
few = settings(max_examples=40, deadline=None)


def same(one: StepRow, other: StepRow) -> bool:
    """Equal, where NaN equals NaN."""
    return repr(one) == repr(other)


@few
@given(st.lists(rows, max_size=5))
def test_rows_come_back_as_they_were_stored(stored: list[StepRow]) -> None:
    found, torn = decode_rows(encode_rows(stored))
    assert not torn
    assert len(found) == len(stored)
    assert all(map(same, found, stored))


@few
@given(st.lists(rows, min_size=1, max_size=3), st.data())
def test_a_file_torn_at_any_byte_gives_the_rows_before_the_tear_and_says_so(
    stored: list[StepRow], data: st.DataObject
) -> None:
    whole = encode_rows(stored)
    cut = data.draw(st.integers(0, len(whole)))
    found, torn = decode_rows(whole[:cut])
    num_whole = whole[:cut].count(b"\n")
    assert len(found) == num_whole
    assert all(map(same, found, stored))
    assert torn == (cut > 0 and whole[cut - 1 : cut] != b"\n")


def test_a_row_is_the_steps_statistics_with_trial_and_attempt(make_row: Callable[..., StepRow]) -> None:
    row = make_row(3)
    stats = StepStats(
        **{k: v for k, v in vars(row).items() if k not in ("trial", "attempt", "done_utc", "bf16_mfu_printed_pct")}
    )
    assert StepRow.of(stats, trial="static-b1", attempt=0) == row


def test_a_nan_loss_is_kept_and_every_line_is_strict_json(make_row: Callable[..., StepRow]) -> None:
    data = encode_rows([make_row(0, loss=math.nan, loss_ema=-math.inf)])

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(data, parse_constant=refuse)["loss"] == "NaN"
    (row,), _ = decode_rows(data)
    assert math.isnan(row.loss)
    assert row.loss_ema == -math.inf


def test_a_damaged_line_in_the_middle_costs_itself_alone(make_row: Callable[..., StepRow]) -> None:
    first, second, third = (encode_rows([make_row(s)]) for s in range(3))
    for damaged in (second[5:], b"\x00" * 20 + b"\n", b"[1]\n", b"\n", second.replace(b'"step":1', b'"step":"x"')):
        found, torn = decode_rows(first + damaged + third)
        assert ([r.step for r in found], torn) == ([0, 2], True)


def test_rows_of_other_versions_are_readable(make_row: Callable[..., StepRow]) -> None:
    values = json.loads(encode_rows([make_row(7)]))
    del values["dead_experts"], values["layer_max_vio"]
    values |= {"a_later_column": 1, "loss": 9, "layer_dropped_pct": [0, 1.5]}
    (row,), torn = decode_rows(json.dumps(values).encode() + b"\n")
    assert not torn
    assert (row.step, row.dead_experts, row.layer_max_vio, row.loss) == (7, None, None, 9.0)
    assert row.layer_dropped_pct == (0.0, 1.5)


def test_a_whole_number_that_is_none_costs_its_line_also_where_it_may_be_missing(
    make_row: Callable[..., StepRow],
) -> None:
    values = json.loads(encode_rows([make_row(7)]))
    for damage in ({"compiled_graphs": 1.5}, {"gpu_throttle_bits": "hot"}, {"step": None}):
        assert decode_rows(json.dumps(values | damage).encode() + b"\n") == ([], True)
    for bits in (None, 32):
        ((row,), torn) = decode_rows(json.dumps(values | {"gpu_throttle_bits": bits}).encode() + b"\n")
        assert (row.gpu_throttle_bits, torn) == (bits, False)
