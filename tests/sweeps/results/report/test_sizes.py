"""A report of any size shows what matters first and folds the rest away."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from nanochat.recipes import d12_moe_fp8
from sweeps.records.documents import AttemptError
from sweeps.results.measures.snapshot import Snapshot
from sweeps.results.report.blocks import Block, Bullets, Cell, Figure, Folded, Report, Section, Table, folded, text_cell
from sweeps.results.report.build import build_report
from sweeps.results.report.html import render_html
from sweeps.results.report.markdown import render_markdown
from sweeps.spec import Axis, Gate, Sweep, TailWindow
from sweeps.spec.plan import make_plan
from tests.helpers.judged import judged_experiment, judged_of_plan


def wide_sweep(num_legs: int) -> Sweep:
    """As many legs, with names that say each axis and its value."""
    rates = [0.01 + 0.001 * i for i in range(max(1, num_legs // 2))]
    first = {"compile.mode": "static", "optim.matrix_lr": 0.01}
    return Sweep(
        name="wide",
        question="Which rate, and which mode?",
        base=d12_moe_fp8(num_steps=40),
        num_workers=8,
        axes=[Axis("compile.mode", ["static", "dynamic"][:num_legs]), Axis("optim.matrix_lr", rates)],
        baseline=first,
        candidate=first | {"compile.mode": "dynamic"} if num_legs > 1 else None,
        window=TailWindow(num_steps=10),
        gates=[Gate("tok_per_sec", improves="baseline")] if num_legs > 1 else [],
    )


def wide_report(num_legs: int, num_blocks: int = 3) -> Report:
    plan = make_plan(wide_sweep(num_legs), num_blocks)
    effects = {leg.name: -0.001 * place for place, leg in enumerate(plan.legs)}
    return build_report([judged_of_plan(plan, effects, sd=0.0001)])


def section(report: Report, key: str) -> Section:
    return next(found for found in report.sections if found.key == key)


def table_of(blocks: Sequence[Block]) -> Table:
    return next(block for block in blocks if isinstance(block, Table))


def texts(row: Sequence[Cell]) -> list[str]:
    return ["".join(str(getattr(piece, "value", piece)) for piece in cell.words) for cell in row]


@pytest.mark.parametrize("num_legs", [2, 6, 12])
def test_few_legs_stay_in_plan_order_and_nothing_is_folded(num_legs: int) -> None:
    legs = section(wide_report(num_legs), "legs").blocks
    assert texts(table_of(legs).rows[0])[3] == "baseline"
    assert len(table_of(legs).rows) == num_legs
    assert not any(isinstance(block, Folded) for block in legs)


@pytest.mark.parametrize("num_legs", [40, 200])
def test_many_legs_are_ranked_and_all_but_the_first_are_folded(num_legs: int) -> None:
    legs = section(wide_report(num_legs), "legs").blocks
    shown, rest = table_of(legs), next(block for block in legs if isinstance(block, Folded))
    assert len(shown.rows) == 12
    assert rest.summary == f"{num_legs - 12} further legs"
    assert [texts(row)[3] for row in shown.rows[:2]] == ["baseline", "candidate"]
    assert isinstance(rest.block, Table)
    speeds = [cell.order for row in [*shown.rows[2:], *rest.block.rows] if (cell := row[4]).order is not None]
    assert len(speeds) == num_legs - 2
    assert speeds == sorted(speeds, reverse=True)


def test_long_names_give_way_to_a_column_for_each_axis() -> None:
    legs = table_of(section(wide_report(6), "legs").blocks)
    assert [column.heading for column in legs.columns][:4] == ["leg", "mode", "matrix_lr", "role"]
    assert texts(legs.rows[1])[1:3] == ["static", "0.011"]
    short = table_of(section(build_report([judged_experiment({})]), "legs").blocks)
    assert [column.heading for column in short.columns][:2] == ["leg", "role"]


def test_a_report_of_two_hundred_legs_is_small() -> None:
    report = wide_report(200)
    drawn = [block for part in report.sections for block in part.blocks if isinstance(block, Figure)]
    assert all(len(str(figure.wide.spec)) < 60_000 for figure in drawn)
    rows = sum(len(block.rows) for part in report.sections for block in part.blocks if isinstance(block, Table))
    assert rows < 150


def test_a_sweep_of_one_leg_has_a_report() -> None:
    report = wide_report(1, num_blocks=1)
    assert len(table_of(section(report, "legs").blocks).rows) == 1
    (trials,) = [row for row in table_of(section(report, "provenance").blocks).rows if texts(row)[0] == "trials"]
    assert texts(trials)[1].startswith("1 trial: 1 leg x 1 block")


def test_twelve_blocks_have_their_numbers_per_leg() -> None:
    def change(trial: Any) -> Any:
        gone = trial.trial.leg.name == "cap1" and trial.trial.block == 2
        return dataclasses.replace(trial, state="failed") if gone else trial

    snapshot = judged_experiment({"cap1": -0.02}, num_blocks=8, change=change)
    rows = {texts(row)[0]: texts(row) for row in table_of(section(build_report([snapshot]), "legs").blocks).rows}
    assert (rows["cap1"][-1], rows["bf16"][-1]) == ("7", "8")


def test_an_experiment_of_which_all_failed_names_the_cause() -> None:
    error = AttemptError(type="OutOfMemoryError", message="no room", traceback="")

    def failed(trial: Any) -> Any:
        attempt = dataclasses.replace(trial.attempts[0], end="failed", error=error)
        return dataclasses.replace(trial, state="failed", attempts=[attempt])

    report = build_report([judged_experiment({}, num_blocks=1, change=failed)])
    assert report.verdicts[0].word == "FAILED"
    assert "OutOfMemoryError" in render_markdown(report, {f: f for f in ("effect", "loss", "dt", "memory", "blocks")})


def hostile(snapshot: Snapshot) -> Snapshot:
    plan = dataclasses.replace(snapshot.plan, question="why \u202egnp.exe <b>& `x` | y")
    return dataclasses.replace(snapshot, plan=plan)


def test_text_that_turns_the_direction_of_writing_is_shown_as_an_escape() -> None:
    report = build_report([hostile(judged_experiment({}, num_blocks=1))])
    for written in (
        render_html(report),
        render_markdown(report, dict.fromkeys(("effect", "loss", "dt", "memory", "blocks"), "x.svg")),
    ):
        assert "\u202e" not in written
        assert "u202e" in written
        assert "<b>" not in written


def test_a_short_table_and_list_stay_whole_and_a_folded_one_is_valid_markdown() -> None:
    rows = [[text_cell(str(i))] for i in range(30)]
    table = Table(caption="c", columns=[], rows=rows)
    assert folded(table, 30, 12, "leg") == [table]
    lines = Bullets(lines=[(str(i),) for i in range(30)])
    first, rest = folded(lines, 24, 12, "line")
    assert isinstance(first, Bullets)
    assert isinstance(rest, Folded)
    assert (len(first.lines), rest.summary) == (12, "18 further lines")


def test_a_run_whose_tail_holds_step_0_says_so() -> None:
    runs = section(build_report([judged_experiment({}, num_blocks=1)]), "runs").blocks
    said = [
        "".join(str(getattr(p, "value", p)) for p in line) for b in runs if isinstance(b, Bullets) for line in b.lines
    ]
    assert any("tail50 is no measure of speed in every run" in line and "step 0" in line for line in said)
