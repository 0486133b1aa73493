"""Figures are deterministic, well-formed SVG that names what it shows, on wide and on narrow pages."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from sweeps.results.report.figures.bars import Bar, bar_chart
from sweeps.results.report.figures.effects import Bound, Effect, Panel, effect_chart
from sweeps.results.report.figures.lines import Line, Point, line_chart, uncounted_spans
from sweeps.results.report.figures.scales import inner_ticks, linear_ticks, log_ticks
from sweeps.results.report.figures.strip import STATE_MARKS, StripCell, StripRow, strip_chart
from sweeps.results.report.figures.svg import NARROW, ROLE_MARKS, WIDE, Drawing, line_look, mark_of, name_lines

SVG = "{http://www.w3.org/2000/svg}"
LONG = "a_leg_with_a_name_of_a_hundred_characters_" + "x" * 58


def checked(drawing: Drawing) -> str:
    """The document, which must be XML, and no text of it can lie outside to the left or right."""
    document = drawing.document()
    for element in ElementTree.fromstring(document).iter():
        if element.tag in (f"{SVG}text", f"{SVG}tspan") and element.text:
            x, px = float(element.get("x", "0")), 7.2 * len(element.text)
            start = {"end": x - px, "middle": x - px / 2}.get(element.get("text-anchor", ""), x)
            assert start >= -12, element.text
            assert element.get("text-anchor") == "end" or start <= drawing.width, element.text
    return document


def line(label: str, ys: list[float], look: int = 0) -> Line:
    return Line(label=label, look=look, points=[Point(x=float(i), y=y, faint=i < 2) for i, y in enumerate(ys)])


def chart(*lines: Line, log_y: bool = False, width: int = WIDE) -> str:
    return checked(line_chart(lines, width=width, title="a <b> & c", y_label="ms", description="it", log_y=log_y))


def curves(svg: str) -> list[str]:
    return [part for part in svg.splitlines() if part.startswith('<path class="line s') and "l" in part.split("d=")[1]]


def effects(*blocks: float) -> list[Effect]:
    return [
        Effect(label="base", role="baseline", mean=1.0, absolute="5,120"),
        Effect(label="new", role="candidate", mean=blocks[0], blocks=blocks),
        Effect(label="gone", role="control", mean=None),
    ]


def effect(*blocks: float, width: int = WIDE) -> str:
    bound = Bound(ratio=1.05, label="peak_mib at most x 1.05")
    panel = Panel(heading="tok/s", better="higher", effects=effects(*blocks), bounds=[bound], margin=0.01)
    return checked(effect_chart([panel, panel, panel], width=width, title="t", description="d"))


def test_names_are_escaped_and_title_and_description_are_there() -> None:
    svg = chart(line("leg <1> & co\x00", [1.0, 2.0, 3.0]))
    assert '<title id="figure-title">a &lt;b&gt; &amp; c</title>' in svg
    assert "leg &lt;1&gt; &amp; co\N{REPLACEMENT CHARACTER}" in svg
    assert "it</desc>" in svg


def test_the_same_lines_give_the_same_bytes() -> None:
    assert chart(line("a", [3.0, 1.0, 2.0])) == chart(line("a", [3.0, 1.0, 2.0]))


def test_faint_steps_are_drawn_faintly_and_the_curve_has_no_hole() -> None:
    faint, solid, *_ = curves(chart(line("a", [1.0, 2.0, 3.0, 4.0])))
    assert "faint" in faint
    assert "faint" not in solid
    assert faint.count("l") - solid.count("l") == 1  # "line faint" less "line", and the point that they share twice


def test_what_leads_to_a_faint_step_and_back_is_faint() -> None:
    points = [Point(x=float(i), y=float(i), faint=i == 2) for i in range(5)]
    before, faint, after, *_ = curves(chart(Line(label="a", look=0, points=points)))
    assert "faint" in faint
    assert "faint" not in before + after
    traced = [part.split(' d="')[1].count("l") + 1 for part in (before, faint, after)]
    assert traced == [2, 3, 2]  # points: 0 1, then 1 2 3, then 3 4


def test_numbers_that_are_none_leave_a_gap() -> None:
    assert "nan" not in chart(line("a", [1.0, 2.0, math.nan, 3.0, math.inf, 2.0, 1.0]))
    assert "nan" not in chart(line("a", [1.0, 0.0, -1.0, 10.0, 100.0]), log_y=True)


@pytest.mark.parametrize("lines", [[], [line("a", [])], [line("a", [math.nan])]])
def test_without_a_point_the_chart_says_so(lines: list[Line]) -> None:
    assert "no steps yet" in chart(*lines)


def test_one_step_or_a_constant_can_be_drawn() -> None:
    assert len(curves(chart(line("a", [2.0])))) == 1
    chart(line("a", [0.0, 0.0, 0.0]))
    chart(line("a", [5.0, 5.0, 5.0]), log_y=True)


def test_an_uncounted_step_may_leave_the_frame_but_a_counted_one_never_does() -> None:
    svg = chart(line("a", [9000.0, 100.0, 110.0, 120.0]))
    assert "highest: 9,000, above the frame" in svg
    assert ">120</text>" in svg
    assert ">9,000</text>" not in svg
    assert "above the frame" not in chart(line("a", [100.0, 100.0, 110.0, 9000.0]))


def test_spans_say_where_steps_count_in_no_run_and_where_in_some() -> None:
    one = Line(label="a", look=0, points=[Point(x=x, y=1.0, faint=x < 3) for x in range(6)])
    other = Line(label="b", look=1, points=[Point(x=x, y=1.0, faint=x in (0, 4)) for x in range(6)])
    assert uncounted_spans([one, other]) == [(0, 0, True), (1, 2, False), (4, 4, False)]


def test_trials_of_one_leg_share_a_look_and_one_entry_of_the_legend() -> None:
    svg = chart(line("a", [1.0, 2.0], look=3), line("a", [2.0, 1.0], look=3), line("b", [1.0, 1.0], look=4))
    assert svg.count(">a</tspan>") == 1


def test_many_legs_get_a_small_plot_each_with_the_first_in_grey() -> None:
    svg = chart(*(line(f"leg {i}", [1.0, 2.0, 3.0], look=i) for i in range(9)))
    assert svg.count('class="ghost') == 8 * 2 + 1  # a faint and a solid part in eight plots, a sample
    assert all(f">leg {i}</tspan>" in svg for i in range(9))


def test_legs_look_different_in_shape_and_dash_as_well_as_in_colour() -> None:
    assert len({line_look(i) for i in range(32)}) == 32
    assert len({mark_of(i) for i in range(64)}) == 64
    assert len({mark_of(i).shape for i in range(8)}) == 8
    assert len({(m.shape, m.solid) for m in ROLE_MARKS.values()}) == 4
    assert len({(m.shape, m.solid) for m in STATE_MARKS.values()}) == len(STATE_MARKS)


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_many_long_runs_stay_small_and_keep_their_spikes(width: int) -> None:
    spiked = [[float(s % 7) + 1000 * (s == 1234) for s in range(3000)] for _ in range(20)]
    svg = chart(*(line(f"leg {i}", ys, look=i) for i, ys in enumerate(spiked)), width=width)
    assert len(svg) < 120_000
    assert ">1,000</text>" in svg or ">1,250</text>" in svg


def test_ticks_are_round_and_enclose_the_range() -> None:
    assert linear_ticks(0.0, 9.3) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert linear_ticks(5.9, 10.4) == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert inner_ticks(5.9, 10.4) == [6.0, 7.0, 8.0, 9.0, 10.0]
    assert log_ticks(96.0, 15000.0) == pytest.approx([50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000])
    assert log_ticks(100.0, 100.0) == pytest.approx([100, 200])


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_one_block_is_a_point_and_several_are_a_bar_that_says_what_it_is(width: int) -> None:
    assert "lowest to highest block" not in effect(1.02, width=width)
    several = effect(1.02, 0.98, 1.04, width=width)
    assert "tok/s: interval; else lowest to highest block" in several
    assert several.count('class="thin s0"') == 3 * 3 + 3  # three blocks in three panels, three in the legend


def test_effects_show_margin_gate_numbers_and_what_is_missing() -> None:
    svg = effect(1.02)
    for words in ("within \N{PLUS-MINUS SIGN}1 %", "gate: peak_mib at most x 1.05", "+2.0 %", "5,120"):
        assert f">{words}</text>" in svg
    assert svg.count(">-</text>") == 3


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_bars_start_at_zero_and_carry_their_numbers(width: int) -> None:
    bars = [
        Bar(label="base", role="baseline", values=[1000.0], text="1,000"),
        Bar(label=LONG, role="candidate", values=[400.0, 500.0], text="500", change="-50.0 %"),
        Bar(label="pending", role="grid", values=[], text="-"),
    ]
    bound = Bound(ratio=1050.0, label="1.05 x")
    svg = checked(bar_chart(bars, width=width, unit="MiB", title="t", description="d", bounds=[bound]))
    widths = [float(w) for w in re.findall(r'<rect class="f\d" [^>]*?width="([\d.]+)"', svg)]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.01)
    assert ">0</text>" in svg
    assert "nothing measured" in checked(bar_chart([], width=width, unit="MiB", title="t", description="d"))


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("num_blocks", [1, 4, 12])
def test_the_strip_has_a_cell_for_each_block_and_a_shape_for_each_state(width: int, num_blocks: int) -> None:
    states = [*STATE_MARKS]
    rows = [
        StripRow(
            label=f"leg {i}",
            cells=[StripCell(state=states[i], ratio=1.1 if i < 3 else None, place=i + 1) for _ in range(num_blocks)],
        )
        for i in range(len(states))
    ]
    svg = checked(strip_chart([*rows, StripRow(label=LONG, cells=[None])], width=width, title="t", description="d"))
    assert svg.count('class="grid"') == num_blocks * len(states) + 1
    assert all(f">{state.replace('_', ' ')}</text>" in svg for state in states)


def test_a_long_name_takes_two_lines_and_loses_its_middle_only_if_it_must() -> None:
    assert name_lines("short", 20) == ["short"]
    assert name_lines("moe_fp8_experts_static_cap1p25", 20) == ["moe_fp8_experts_", "static_cap1p25"]
    first, second = name_lines(LONG, 30)
    assert first.startswith("a_leg_with")
    assert second.endswith("xxx")
    assert max(len(first), len(second)) <= 30
    assert "…" in first + second
