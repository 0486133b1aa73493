"""Figures are specifications of plain values, the same for the same numbers, and SVG that names what it shows."""

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from sweeps.results.decisions.judgement import judge
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Figure
from sweeps.results.report.figures import vega
from sweeps.results.report.figures.choice import MOST_ROWS, labels_of, leading_legs
from sweeps.results.report.figures.curves import MOST_POINTS, curve_gap, curve_spec, points_of
from sweeps.results.report.figures.draw import block_figure, dt_figure, effect_figure, loss_figure, memory_figure
from sweeps.results.report.figures.effects import Effect, Panel, effect_spec, half_width
from sweeps.results.report.figures.memory import Bar, memory_spec
from sweeps.results.report.figures.strip import STATES, StripCell, strip_spec
from sweeps.results.report.figures.vega import NARROW, ROLE_MARKS, WIDE, Drawing
from sweeps.spec.parts import Gate
from tests.helpers.judged import judged_experiment


def rows_of(spec: Any) -> list[dict[str, Any]]:
    """The rows of a specification, those of all panels."""
    parts = spec.get("vconcat", [spec])
    return [row for part in parts for row in part["data"]["values"]]


def panel(*effects: Effect, margin: float | None = 1.0, bounds: Any = ()) -> Panel:
    return Panel(heading="tok/s", note="more is better", effects=effects, margin=margin, bounds=bounds)


def effect(change: float | None, label: str = "new", **more: Any) -> Effect:
    return Effect(label=label, role="candidate", change=change, **more)


def test_the_scale_is_that_of_the_gates_whatever_an_outlier_does() -> None:
    near, far = effect(0.5), effect(-52.0, "slow", low=-55.0, high=-49.0, blocks=[-52.0], text="-52 %")
    assert half_width(panel(near)) == half_width(panel(near, far)) == 2.0
    assert half_width(panel(near, bounds=[(5.0, "at most +5 %")])) == 7.5
    assert half_width(panel(effect(3.0, low=2.5, high=4.0))) == pytest.approx(4.4)
    slow = rows_of(effect_spec([panel(near, far)], WIDE))[1]
    assert (slow["change"], slow["low"], slow["high"]) == (None, None, None)
    assert slow["beyond"] == "< \N{MINUS SIGN}2.0 %"
    assert slow["text"] == "-52 %"
    assert rows_of(effect_spec([panel(effect(80.0))], WIDE))[0]["beyond"] == "> +2.0 %"


def test_a_wide_interval_ends_at_the_frame() -> None:
    row = rows_of(effect_spec([panel(effect(1.0, low=-30.0, high=30.0))], WIDE))[0]
    assert (row["change"], row["low"], row["high"]) == (1.0, -2.0, 2.0)


def test_the_range_of_equivalence_and_the_gates_are_drawn() -> None:
    spec = effect_spec([panel(effect(0.0), bounds=[(5.0, "at most +5 %")])], WIDE)
    layers = spec["vconcat"][0]["layer"]
    band = next(layer["encoding"] for layer in layers if layer["mark"]["type"] == "rect")
    assert (band["x"]["datum"], band["x2"]["datum"]) == (-1.0, 1.0)
    assert [layer["encoding"]["x"]["datum"] for layer in layers if "strokeDash" in layer["mark"]] == [5.0]


def test_without_a_comparison_the_figure_says_so() -> None:
    assert (
        "No two legs" in Drawing(spec=effect_spec([panel(effect(None))], WIDE), title="t", description="d").document()
    )
    assert (
        "No steps yet"
        in Drawing(spec=curve_spec([], width=WIDE, y_title="", around_zero=True), title="t", description="d").document()
    )
    assert "Nothing measured" in Drawing(spec=memory_spec([], WIDE), title="t", description="d").document()


def test_the_effects_of_an_experiment_have_intervals_and_their_number_of_blocks() -> None:
    snapshot = judged_experiment({"cap1": -0.02}, num_blocks=5)
    rows = {row["leg"]: row for row in rows_of(effect_figure(snapshot).wide.spec)[:4]}
    assert rows["cap1"]["change"] == pytest.approx(2.04, abs=0.1)
    assert rows["cap1"]["low"] < rows["cap1"]["change"] < rows["cap1"]["high"]
    assert re.fullmatch(r"\+2\.\d % \[\+1\.\d, \+2\.\d\] \(n = 5\)", rows["cap1"]["text"])
    narrow = {row["leg"]: row for row in rows_of(effect_figure(snapshot).narrow.spec)[:4]}
    assert re.fullmatch(r"\+2\.\d % \(n = 5\)", narrow["cap1"]["text"])
    assert rows["cap0"]["text"].startswith("baseline: ")
    assert "(n =" not in json.dumps(effect_figure(judged_experiment({}, num_blocks=1)).wide.spec)


def test_a_leg_that_lacks_a_block_says_how_many_it_rests_on() -> None:
    def change(trial: Any) -> Any:
        gone = trial.trial.leg.name == "cap1" and trial.trial.block == 2
        return type(trial)(**(vars(trial) | {"state": "failed"})) if gone else trial

    rows = {
        row["leg"]: row
        for row in rows_of(effect_figure(judged_experiment({}, num_blocks=4, change=change)).wide.spec)[:4]
    }
    assert rows["cap1"]["text"].endswith("(n = 3)")
    assert rows["bf16"]["text"].endswith("(n = 4)")


def test_curves_are_differences_with_a_band_over_blocks() -> None:
    one, other = curve_gap({0: 3.0, 1: 2.5, 9: 1.0}, {0: 2.0, 1: 2.0}, in_percent=False), {0: 2.0, 1: 0.0}
    assert one == {0: 1.0, 1: 0.5}
    first, second = points_of("leg", [one, other])
    assert (first.mean, first.low, first.high, first.num_blocks) == (1.5, 1.0, 2.0, 2)
    assert (second.step, second.mean) == (1.0, 0.25)
    assert curve_gap({0: 3.0, 1: 1.0}, {0: 2.0, 1: 0.0}, in_percent=True) == {0: 50.0}


def test_a_long_run_is_thinned_and_numbers_that_are_none_are_left_out() -> None:
    points = points_of("leg", [{step: float(step) for step in range(1000)}, {5: math.nan, 6: math.inf}])
    assert len(points) <= MOST_POINTS
    assert points[0].mean == pytest.approx(8.0)
    assert {point.num_blocks for point in points} == {1}


def test_the_start_of_a_run_does_not_flatten_the_rest() -> None:
    points = points_of("leg", [{step: 100.0 if step == 0 else 1.0 + step / 100 for step in range(50)}])
    spec = curve_spec(points, width=WIDE, y_title="", around_zero=False)
    low, high = spec["spec"]["layer"][-1]["encoding"]["y"]["scale"]["domain"]
    assert high < 2
    assert all(low <= row["mean"] <= high for row in rows_of(spec))


def test_a_run_without_a_baseline_shows_its_own_curve() -> None:
    def change(trial: Any) -> Any:
        return (
            type(trial)(**(vars(trial) | {"steps": trial.steps[:0]})) if trial.trial.leg.role == "baseline" else trial
        )

    figure = loss_figure(judged_experiment({}, num_blocks=1, change=change))
    assert figure.wide.spec["title"]["text"] == "loss, nats per token"
    assert min(row["mean"] for row in rows_of(figure.wide.spec)) > 3


def test_bars_start_at_zero_and_have_their_numbers() -> None:
    bars = [
        Bar(label="a", role="baseline", mib=1000.0, text="1,000 MiB"),
        Bar(label="b", role="grid", mib=None, text="-"),
    ]
    spec = memory_spec(bars, WIDE, [1050.0])
    assert [row["text"] for row in rows_of(spec)] == ["1,000 MiB", "-"]
    assert spec["layer"][0]["encoding"]["x"]["scale"]["zero"] is True


@pytest.mark.parametrize("num_blocks", [1, 4, 12])
def test_the_strip_has_a_cell_for_each_trial_and_a_sign_for_each_state(num_blocks: int) -> None:
    cells = [
        StripCell(leg=state, block=block, state=state, ratio=1.02 if state == "completed" else None)
        for state in STATES
        for block in range(1, num_blocks + 1)
    ]
    wide, narrow = (rows_of(strip_spec(cells, width)) for width in (WIDE, NARROW))
    assert len(wide) == len(narrow) == num_blocks * len(STATES)
    assert wide[0]["text"] == ("+2.0" if num_blocks < 12 else STATES["completed"])
    assert {row["text"] for row in narrow if row["state"] == "failed"} <= {STATES["failed"], "failed"}


def test_many_legs_show_the_baseline_the_candidate_a_control_and_the_fastest(large_snapshot: Snapshot) -> None:
    judgement = judge(large_snapshot)
    shown = leading_legs(large_snapshot, judgement, MOST_ROWS)
    assert len(shown) == MOST_ROWS
    assert {"baseline", "candidate", "control"} <= {leg.role for leg in shown}
    fastest = max(judgement.legs, key=lambda v: v.finding.ratio or 0.0)
    assert fastest.leg in shown
    assert [leg for leg in large_snapshot.plan.legs if leg in shown] == shown
    caption = str(effect_figure(large_snapshot).caption[0])
    assert "8 further legs are in the tables" in caption
    assert "Legs with long names go by mode, capacity_factor." in caption


def test_labels_are_short_and_differ(large_snapshot: Snapshot) -> None:
    labels = labels_of(large_snapshot.plan.legs)
    assert len(set(labels.values())) == len(labels)
    assert max(map(len, labels.values())) <= 26
    assert labels["moe_fp8_experts_static_cap1p25"] == "static, 1.25"


@pytest.fixture(scope="module")
def figures(large_snapshot: Snapshot) -> list[Figure]:
    draw = (effect_figure, loss_figure, dt_figure, memory_figure, block_figure)
    return [figure(large_snapshot) for figure in draw]


def test_every_figure_is_xml_with_title_and_description_and_fetches_nothing(figures: list[Figure]) -> None:
    for figure in figures:
        document = figure.wide.document()
        root = ElementTree.fromstring(document)
        assert root.get("aria-labelledby") == "figure-title figure-desc"
        assert f'<title id="figure-title">{figure.title}</title>' in document
        assert str(figure.caption[0])[:40] in (root.findtext("{http://www.w3.org/2000/svg}desc") or "")
        assert re.findall(r"(?:href|src)=|@import|https?://(?!www\.w3\.org)", document) == []
        assert figure.wide.document() == document


def test_a_file_brings_its_colours_and_its_paper_a_page_has_them_already(figures: list[Figure]) -> None:
    for figure in figures:
        document, inline = figure.wide.document(), figure.wide.inline(f"{figure.key}-wide")
        used = set(re.findall(r"var\((--\w+)\)", document))
        assert used <= set(re.findall(r"(--\w+):", document))
        assert 'fill="var(--paper)"' in document
        assert "<style" not in inline
        assert "paper" not in inline


def test_ids_of_figures_on_one_page_differ(figures: list[Figure]) -> None:
    drawn = "".join(f.wide.inline(f"{f.key}-wide") + f.narrow.inline(f"{f.key}-narrow") for f in figures)
    ids = re.findall(r'\bid="([^"]+)"', drawn)
    assert len(set(ids)) == len(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", drawn)) <= set(ids)


def test_hostile_names_are_shown_and_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "<script>\u202e\x00&\"'`]]>"
    label = labels_of([type("L", (), {"name": name, "role": "grid", "overrides": {}})()])[name]  # type: ignore[list-item]
    spec = effect_spec([panel(effect(1.0, label))], WIDE)
    document = Drawing(spec=spec, title=name, description=name).document()
    ElementTree.fromstring(document)
    assert "<script>" not in document
    assert "\u202e" not in document
    assert "\\u202e" in document


def test_roles_differ_in_shape_as_well_as_in_colour() -> None:
    assert len({shape for _, shape in ROLE_MARKS.values()}) == len(ROLE_MARKS)
    assert len({colour for colour, _ in ROLE_MARKS.values()}) == len(ROLE_MARKS)
    assert all(colour.startswith("var(--") for colour, _ in ROLE_MARKS.values())


def test_the_renderer_may_fetch_nothing() -> None:
    spec = vega.finished({"data": {"url": "https://example.org/x.json"}, "mark": "point", "encoding": {}})
    with pytest.raises(ValueError, match=r"(?i)url|allow|load|fetch"):
        Drawing(spec=spec, title="t", description="d").document()


def test_a_gate_against_the_baseline_is_a_bound_of_its_panel() -> None:
    figure = effect_figure(
        judged_experiment({}, gates=(Gate("tok_per_sec", improves="baseline"), Gate("peak_mib", at_most=1.05)))
    )
    notes = [part["title"]["subtitle"] for part in figure.wide.spec["vconcat"]]
    assert [("gate: at most +5.0 %" in note) for note in notes] == [False, True, False]


def test_a_step_far_away_costs_a_point_and_no_time() -> None:
    points = points_of("a", [{0: 1.0, 1: 3.0, 2**62: 5.0}, {0: 2.0}])
    assert [(point.mean, point.num_blocks) for point in points] == [(2.0, 2), (5.0, 1)]
