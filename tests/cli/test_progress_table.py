"""The table of a running experiment, line by line."""

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.progress_table import Look, around_the_running, duration, short_names, table_lines
from sweeps.results.measures.progress import ExperimentProgress, LegProgress

GOLDEN = Path(__file__).parent / "golden"
PLAIN = Look(has_colour=False)


def leg(name: str, state: str = "pending", num_done: int = 0, **known: object) -> LegProgress:
    numbers: dict[str, object] = {"is_starting": False, "loss": None, "tok_per_sec": None, "seconds_left": None}
    return LegProgress(name=name, state=state, num_done=num_done, num_steps=280, **{**numbers, **known})  # type: ignore[arg-type]


CAPACITY = ExperimentProgress(
    id="20260101_120000_capacity",
    state="running",
    seconds_left=754.0,
    legs=(
        leg("moe_fp8_experts_static_cap0p0", "completed", 280, loss=3.1234, tok_per_sec=3123456.0),
        leg("moe_fp8_experts_static_cap1p0", "failed", 12, loss=math.nan, tok_per_sec=3200000.0),
        leg("moe_fp8_experts_static_cap1p25", "running", 113, loss=4.321, tok_per_sec=412345.6, seconds_left=130.2),
        leg("moe_fp8_experts_dynamic_cap1p0", "interrupted", 70, loss=5.1, tok_per_sec=300000.0),
        leg("moe_fp8_experts_nocompile_cap1p0"),
        leg("moe_bf16_experts_static_cap0p0"),
    ),
)


@pytest.mark.parametrize(
    ("file", "look"),
    [
        ("live_80.txt", PLAIN),
        ("live_40.txt", Look(columns=40, has_colour=False)),
        ("live_120_colour.txt", Look(columns=120)),
        ("live_100_low_ascii.txt", Look(columns=100, lines=8, has_colour=False, has_unicode=False)),
    ],
)
def test_it_looks_like_this(file: str, look: Look) -> None:
    assert "\n".join(table_lines(CAPACITY, look)) + "\n" == (GOLDEN / file).read_text()


@pytest.mark.parametrize("columns", [20, 25, 33, 40, 52, 60, 79, 80, 81, 100, 200])
def test_no_line_reaches_the_right_edge_and_every_leg_has_one(columns: int) -> None:
    lines = table_lines(CAPACITY, Look(columns=columns, has_colour=False))
    assert len(lines) == 9
    assert max(map(len, lines)) < max(columns, 21)


def test_columns_stay_where_they_are_while_numbers_grow() -> None:
    later = dataclasses.replace(
        CAPACITY.legs[2], num_done=280, state="completed", loss=10.3, tok_per_sec=3412345.6, seconds_left=4.0
    )
    grown = dataclasses.replace(CAPACITY, legs=(*CAPACITY.legs[:2], later, *CAPACITY.legs[3:]))
    assert table_lines(grown, PLAIN)[1] == table_lines(CAPACITY, PLAIN)[1]


def test_a_leg_without_a_model_yet_is_starting() -> None:
    starting = dataclasses.replace(CAPACITY, legs=(leg("a", "running", is_starting=True), leg("b")))
    assert table_lines(starting, PLAIN)[2].split() == ["a", "starting", "0/280"]


def test_the_bar_is_full_only_at_the_end() -> None:
    almost = dataclasses.replace(CAPACITY, legs=(leg("a", "running", 279),))
    assert " 99 %  0 of 1" in table_lines(almost, PLAIN)[-1]
    done = dataclasses.replace(almost, state="completed", legs=(leg("a", "completed", 280),))
    assert table_lines(done, PLAIN)[-1].endswith("━ 100 %  1 of 1")


def test_more_legs_than_lines_show_those_around_the_running_one() -> None:
    legs = [leg(f"l{i}", "completed" if i < 10 else "running" if i == 10 else "pending") for i in range(30)]
    shown, hidden = around_the_running(legs, 6)
    assert [each.name for each in shown] == ["l8", "l9", "l10", "l11", "l12", "l13"]
    assert len(hidden) == 24
    many = dataclasses.replace(CAPACITY, legs=tuple(legs))
    lines = table_lines(many, Look(lines=12, has_colour=False))
    assert len(lines) == 11
    assert lines[-2] == "and 23 more: 8 completed, 15 pending"


def test_the_window_stays_inside_the_list() -> None:
    done = [leg(f"l{i}", "completed") for i in range(5)]
    assert [each.name for each in around_the_running(done, 2)[0]] == ["l3", "l4"]
    assert [each.name for each in around_the_running([leg("a"), *done], 2)[0]] == ["a", "l0"]
    assert around_the_running(done, 5) == (done, [])


CAPACITY_NAMES = [each.name for each in CAPACITY.legs]


@pytest.mark.parametrize(
    ("names", "width", "expected"),
    [
        (CAPACITY_NAMES, 40, CAPACITY_NAMES),
        (["moe_fp8_a", "moe_fp8_b"], 8, ["…a", "…b"]),
        (["moe_fp8_static_cap", "moe_bf16_static_cap"], 7, ["…fp8…", "…bf16…"]),
        (["a_static_cap1", "a_cap2"], 12, ["…static_cap1", "…cap2"]),
        (["abcdefghijklmnopqrst"], 10, ["abc…opqrst"]),
        (["same_prefix", "same_prefix_more"], 12, ["same_prefix", "sam…fix_more"]),
    ],
)
def test_long_names_lose_what_they_share_then_their_middle(names: list[str], width: int, expected: list[str]) -> None:
    assert short_names(names, width) == expected


def test_shortened_names_of_a_grid_stay_different() -> None:
    short = short_names(CAPACITY_NAMES, 24)
    assert short[0] == "…fp8…static_cap0p0"
    assert len(set(short)) == 6


_PARTS = ("moe", "fp8", "experts", "static", "dynamic", "capacity_factor-1.0", "capacity_factor-1.25", "lr-0.02")
_NAMES = st.lists(st.sampled_from(_PARTS), min_size=1, max_size=8).map("_".join) | st.from_regex(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_NAMES, min_size=1, max_size=30, unique=True), st.integers(12, 60))
def test_shortened_names_fit_and_stay_different(names: list[str], width: int) -> None:
    short = short_names(names, width)
    assert len(set(short)) == len(names)
    assert max(map(len, short)) <= width


@pytest.mark.parametrize("columns", range(60, 130, 7))
def test_legs_that_differ_in_their_middle_alone_stay_different_at_any_width(columns: int) -> None:
    names = [f"a_leg_with_a_beginning_of_{i:02d}_and_a_very_long_common_end_in_every_one_of_them" for i in range(12)]
    names += [name.replace("_", "-") for name in names]
    legs = tuple(leg(name, "running", 5, loss=9.1, tok_per_sec=412345.6, seconds_left=130.2) for name in names)
    many = dataclasses.replace(CAPACITY, legs=legs)
    lines = table_lines(many, Look(columns=columns, lines=60, has_colour=False))[2 : 2 + len(legs)]
    assert len({line.split()[0] for line in lines}) == len(legs)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (754.0, "12m 34s"), (3599.9, "1h 00m"), (360000.0, "100h 00m")],
)
def test_a_duration_is_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
