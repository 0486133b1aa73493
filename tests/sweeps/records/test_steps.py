"""Both ways of reading a part, by column and row by row, give the same steps."""

import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.records.rows import StepRow, decode_rows, encode_rows
from sweeps.records.steps import Steps, decode_steps, merge_steps
from tests.helpers.rows import row

MakeRow = Callable[..., StepRow]
few = settings(max_examples=60, deadline=None)


def check_both_ways(data: bytes) -> tuple[list[StepRow], bool]:
    """What the tolerant decoder reads of a part, after the columns were seen to hold just that."""
    rows, is_torn = decode_rows(data)
    steps, torn_too = decode_steps(data)
    assert (len(steps), torn_too) == (len(rows), is_torn)
    assert repr(steps.rows()) == repr(rows)
    return rows, is_torn


def line(make_row: MakeRow, **changes: Any) -> bytes:
    """A stored row with other values in it, whatever they are."""
    return json.dumps(json.loads(encode_rows([make_row(7)])) | changes).encode() + b"\n"


DAMAGE = {
    "nothing": b"",
    "an empty line": b"\n",
    "a blank line": b"  \n",
    "another object": b"[1]\n",
    "an empty object": b"{}\n",
    "zeros": b"\0" * 20 + b"\n",
    "no text": b"\xff\xfe\n",
    "a byte order mark": b"\xef\xbb\xbf",
    "a torn row": b'{"step": 3',
    "a comma": b",\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("place", [0, 1, 2])
def test_damage_anywhere_costs_the_same_lines_both_ways(place: int, damage: bytes, make_row: MakeRow) -> None:
    lines = [encode_rows([make_row(s)]) for s in range(2)]
    check_both_ways(b"".join([*lines[:place], damage, *lines[place:]]))


VALUES: list[dict[str, Any]] = [
    {"loss": "NaN"},
    {"loss": math.nan},
    {"dt_ms": "Infinity", "layer_max_vio": [1.0, "NaN"]},
    {"loss": 10**400},
    {"loss": -(10**400)},
    {"peak_mib": 900},
    {"bal": True},
    {"step": 2**63},
    {"step": -1},
    {"attempt": -(2**63)},
    {"gpu_throttle_bits": -1},
    {"step": 7.0},
    {"step": None},
    {"gpu_throttle_bits": 10**400},
    {"dead_experts": None, "val_bpb": 1.5, "layer_dropped_pct": [0, 1.5]},
    {"layer_dropped_pct": [None]},
    {"layer_dropped_pct": 3.0},
    {"layer_dropped_pct": []},
    {"flags": "warmup"},
    {"flags": [3]},
    {"flags": [None]},
    {"flags": None},
    {"flags": ["\ud800"]},
    {"trial": "\ud800"},
    {"trial": "größe \u202e"},
    {"trial": 3},
    {"loss": "a lot"},
    {"loss": [1]},
    {"loss": None},
    {"unknown": {"deep": [1]}},
]


@pytest.mark.parametrize("changes", VALUES, ids=repr)
def test_any_value_reads_the_same_both_ways(changes: dict[str, Any], make_row: MakeRow) -> None:
    check_both_ways(encode_rows([make_row(6)]) + line(make_row, **changes) + encode_rows([make_row(8)]))


def test_two_rows_in_a_line_are_one_damaged_line(make_row: MakeRow) -> None:
    both = encode_rows([make_row(0), make_row(1)]).replace(b"}\n{", b"}{")
    assert check_both_ways(both) == ([], True)


def test_a_number_too_large_for_a_float_is_infinite_and_a_whole_one_out_of_range_costs_its_line(
    make_row: MakeRow,
) -> None:
    (stored,), torn = check_both_ways(line(make_row, loss=10**400).replace(b'"dt_ms": 100.0', b'"dt_ms": -1e999'))
    assert (stored.loss, stored.dt_ms, torn) == (math.inf, -math.inf, False)
    for changes in ({"step": 2**63}, {"step": 10**30}, {"step": -1}, {"attempt": -1}, {"gpu_throttle_bits": -1}):
        assert check_both_ways(line(make_row, **changes)) == ([], True)


@few
@given(st.integers(0, 10_000), st.sampled_from(["cut", "drop", "zero", "double"]), st.integers(1, 40))
def test_bytes_that_storage_lost_or_changed_read_the_same_both_ways(place: int, how: str, length: int) -> None:
    data = encode_rows([row(step) for step in range(3)])
    place %= len(data)
    there, after = data[place : place + length], data[place + length :]
    changed = {"cut": b"", "drop": after, "zero": b"\0" * len(there) + after, "double": there + there + after}[how]
    check_both_ways(data[:place] + changed)


def test_columns_are_what_the_rows_hold(make_row: MakeRow) -> None:
    rows = [make_row(s, val_bpb=None if s else 1.5, layer_max_vio=(0.5, 0.25)) for s in range(4)]
    for steps in (Steps.of(rows), decode_steps(encode_rows(rows))[0]):
        assert steps.rows() == rows
        assert steps.ints("step") == [0, 1, 2, 3]
        assert steps.floats("loss") == [10.0, 9.9, 9.8, 9.7]
        assert steps.known("val_bpb") == [1.5, None, None, None]
        assert steps.layers("layer_max_vio") == [(0.5, 0.25)] * 4
        assert steps.flags == [("warmup",)] * 4
        assert steps[1:3].ints("step") == [1, 2]
        assert steps[-2:].ints("step") == [2, 3]
        assert steps.where([True, False, False, True]).ints("step") == [0, 3]


def test_no_steps_have_empty_columns() -> None:
    for none in (Steps(), Steps.of([]), Steps.joined([]), Steps()[-5:], decode_steps(b"")[0]):
        assert (len(none), none.rows(), none.floats("loss"), none.flags) == (0, [], [], [])
        assert none.table.num_rows == 0


def test_an_unknown_column_is_an_error(make_row: MakeRow) -> None:
    with pytest.raises(KeyError):
        Steps.of([make_row(0)]).floats("lost")


# Each step once


def test_the_latest_attempt_that_covers_a_step_wins(make_row: MakeRow) -> None:
    first = Steps.of([make_row(s, attempt=0) for s in range(14)])
    second = Steps.of([make_row(s, attempt=1) for s in range(10, 12)])
    merged = merge_steps(Steps.joined([second, first]))
    assert merged.ints("step") == list(range(14))
    assert merged.ints("attempt") == [0] * 10 + [1, 1] + [0, 0]


@few
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=30), st.randoms())
def test_merging_holds_each_step_once_whatever_the_order_of_parts(
    covered: list[tuple[int, int]], random: Random
) -> None:
    make = [row(step, attempt=attempt) for step, attempt in covered]
    shuffled = list(make)
    random.shuffle(shuffled)
    merged = merge_steps(Steps.joined(Steps.of([each]) for each in shuffled))
    assert merged.rows() == merge_steps(Steps.of(make)).rows()
    assert list(zip(merged.ints("step"), merged.ints("attempt"), strict=True)) == sorted(
        {step: max(a for s, a in covered if s == step) for step, _ in covered}.items()
    )
