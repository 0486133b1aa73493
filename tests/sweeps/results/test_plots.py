"""Charts are deterministic, well-formed SVG that names what it shows."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from sweeps.results.plots import Line, Point, line_chart, linear_ticks, log_ticks


def line(label: str, ys: list[float], look: int = 0) -> Line:
    return Line(label=label, look=look, points=[Point(x=float(i), y=y, faint=i < 2) for i, y in enumerate(ys)])


def chart(*lines: Line, log_y: bool = False) -> str:
    svg = line_chart(lines, title="a <b> & c", y_label="ms", description="what it shows", log_y=log_y)
    ElementTree.fromstring(svg)
    return svg


def test_names_are_escaped_and_title_and_description_are_there() -> None:
    svg = chart(line("leg <1> & co", [1.0, 2.0, 3.0]))
    assert '<title id="title">a &lt;b&gt; &amp; c</title>' in svg
    assert "leg &lt;1&gt; &amp; co" in svg
    assert "what it shows</desc>" in svg


def test_the_same_lines_give_the_same_bytes() -> None:
    assert chart(line("a", [3.0, 1.0, 2.0])) == chart(line("a", [3.0, 1.0, 2.0]))


def test_faint_steps_are_drawn_faintly_and_the_curve_has_no_hole() -> None:
    svg = chart(line("a", [1.0, 2.0, 3.0, 4.0]))
    faint, solid = (p for p in svg.splitlines() if "L" in p and 'class="line' in p)
    assert 'class="line faint"' in faint
    assert faint.split('d="M')[1].split('"')[0].split("L")[-1] == solid.split('d="M')[1].split("L")[0]


def test_numbers_that_are_none_leave_a_gap() -> None:
    assert "nan" not in chart(line("a", [1.0, 2.0, math.nan, 3.0, math.inf, 2.0, 1.0]))
    assert "nan" not in chart(line("a", [1.0, 0.0, -1.0, 10.0, 100.0]), log_y=True)


@pytest.mark.parametrize("lines", [[], [line("a", [])], [line("a", [math.nan])]])
def test_without_a_point_the_chart_says_so(lines: list[Line]) -> None:
    assert "no steps yet" in chart(*lines)


def test_one_step_or_a_constant_can_be_drawn() -> None:
    assert "<circle" in chart(line("a", [2.0]))
    chart(line("a", [0.0, 0.0, 0.0]))
    chart(line("a", [5.0, 5.0, 5.0]), log_y=True)


def test_trials_of_one_leg_share_a_look_and_one_entry_of_the_legend() -> None:
    svg = chart(line("a", [1.0, 2.0], look=3), line("a", [2.0, 1.0], look=3), line("b", [1.0, 1.0], look=4))
    assert svg.count(">a</text>") == 1


def test_32_legs_all_look_different() -> None:
    svg = chart(*(line(str(i), [1.0, 2.0], look=i) for i in range(32)))
    looks = [part.split("stroke=")[1] for part in svg.splitlines() if "h36" in part]
    assert len(set(looks)) == 32


def test_many_long_runs_stay_small() -> None:
    svg = chart(*(line(f"leg {i}", [float(s) for s in range(3000)], look=i) for i in range(20)))
    assert len(svg) < 250_000


def test_ticks_are_round_and_enclose_the_range() -> None:
    assert linear_ticks(0.0, 9.3) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert linear_ticks(5.9, 10.4) == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert log_ticks(96.0, 15000.0) == pytest.approx([50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000])
    assert log_ticks(100.0, 100.0) == pytest.approx([100, 200])
