"""An experiment read once: each trial's numbers computed once, and no trial that takes the others down."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow, encode_rows
from sweeps.results.measures import summary as measured
from sweeps.results.measures.snapshot import Snapshot, read_snapshot
from sweeps.results.report.build import build_report, markdown_files, refresh
from sweeps.results.report.html import render_html
from sweeps.results.status import run_table, status_json
from sweeps.results.tables.build import legs_table, steps_table
from sweeps.results.tables.parquet import export_experiment

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]


def test_each_trials_numbers_are_computed_once_for_everything_that_shows_them(
    large_snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("measure", "counts_for_timing", "timing_window", "why_diverged"):
        original = getattr(measured, name)

        def counting(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(measured, name, counting)
    fresh = dataclasses.replace(large_snapshot, trials=[dataclasses.replace(t) for t in large_snapshot.trials])
    report = build_report([fresh])
    assert markdown_files(report, "report.md")
    assert render_html(report)
    assert legs_table(fresh).num_rows == len(fresh.trials)
    assert steps_table(fresh).num_rows == 280 * len(fresh.trials)
    assert status_json(fresh)
    assert run_table(fresh)
    counts = {name: calls.count(name) for name in set(calls)}
    assert counts == dict.fromkeys(("measure", "counts_for_timing", "timing_window", "why_diverged"), len(fresh.trials))


def show_all(experiment: Experiment) -> str:
    """Everything that shows an experiment; the Markdown report."""
    snapshot = read_snapshot(experiment)
    json.dumps(status_json(snapshot), allow_nan=False)
    run_table(snapshot)
    refresh(experiment)
    return (Path(experiment.uri) / "report" / "report.md").read_text()


def stored(experiment: Experiment, trial: str, data: bytes) -> None:
    """Puts bytes where a part of a trial's rows is."""
    folder = Path(experiment.uri) / "trials" / trial / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a000-p000000.jsonl").write_bytes(data)


HUGE = (10**400, -(10**400), 1e308, -1e308, 2**63, 2**40)
NUMBERS: list[Any] = [*HUGE, 5e-324, 0, -1, "NaN", "Infinity", "-Infinity", None, "x"]
FIELDS = [f.name for f in dataclasses.fields(StepRow) if f.name not in ("trial", "flags")]


@pytest.mark.parametrize("field", FIELDS)
def test_no_stored_number_takes_status_report_or_export_down(
    field: str, make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    values = json.loads(encode_rows([make_row(30, trial="static_cap1p25-b1")]))
    lines = [json.dumps(values | {"step": 30 + i} | {field: number}) for i, number in enumerate(NUMBERS)]
    lines += [json.dumps(values).replace(f'"{field}": ', f'"{field}": 1e999, "_": ')]
    stored(experiment, "static_cap1p25-b1", "".join(f"{line}\n" for line in lines).encode())
    text = show_all(experiment)
    assert "| `static` | completed | 40 |" in text
    steps = pq.read_table(export_experiment(experiment)[1])
    assert steps["leg"].to_pylist().count("static") == 40


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": {"num_params": 10**400, "flops_per_token": math.inf, "grad_accum_steps": "x"}},
        {"facts": {"world_size": None, "backends": None, "total_batch_tokens": 2.5, "compile_cache": None}},
        {"facts": {"device_name": "\ud800"}},
        {"started_utc": "yesterday", "ended_utc": "never", "first_step_utc": "?"},
        {"started_utc": "2026-01-01T12:00:00Z", "ended_utc": "2026-01-01T11:00:00Z"},
        {"started_utc": "2026-01-01T12:00:00", "ended_utc": "2026-01-01T11:00:00+09:00"},
        {"started_utc": "0001-01-01T00:00:00+23:59"},
        {"num_workers": 10**400},
        {"versions": None, "git_commit": None},
    ],
    ids=str,
)
def test_no_attempt_takes_status_report_or_export_down(
    changes: dict[str, Any], make_experiment: Make, complete: Complete
) -> None:
    experiment = make_experiment()
    for trial in experiment.plan.trials:
        complete(experiment, trial.name)
    file = Path(experiment.uri) / "trials" / "static_cap1p25-b1" / "attempts" / "000.json"
    values = json.loads(file.read_text())
    facts = {"facts": values["facts"] | changes["facts"]} if "facts" in changes else {}
    file.write_text(json.dumps(values | changes | facts))
    assert "| `static` | completed | 40 |" in show_all(experiment)
    state = {t.trial.leg.name: t.state for t in read_snapshot(experiment).trials}["static_cap1p25"]
    assert state in ("completed", "damaged")
    legs = pq.read_table(export_experiment(experiment)[0]).to_pylist()
    spans = [leg["wall_time_min"] for leg in legs if leg["wall_time_min"] is not None]
    assert all(minutes >= 0 for minutes in spans)


def test_a_number_that_a_column_cannot_hold_is_null_and_named(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    rows = [make_row(s, loss=math.nan, dropped_pct=math.inf) for s in range(40)]
    complete(experiment, "static-b1", rows)
    complete(experiment, "bf16-b1")
    legs = {leg["leg"]: leg for leg in pq.read_table(export_experiment(experiment)[0]).to_pylist()}
    static = legs["static"]
    assert (static["loss"], static["dropped_pct"], static["last_loss"]) == (None, None, pytest.approx(6.1))
    assert static["not_finite"] == ["loss", "dropped_pct"]
    assert legs["bf16"]["not_finite"] == []


@pytest.mark.parametrize("content", [b"", b"null", b'{"schema": "x"}', b'{"schema": "nanochat-sweep/attempt/1"}'])
@pytest.mark.parametrize("file", ["attempts/000.json", "result.json"])
def test_a_damaged_trial_is_told_and_the_others_are_reported(
    file: str, content: bytes, make_experiment: Make, complete: Complete
) -> None:
    experiment = make_experiment()
    for trial in experiment.plan.trials:
        complete(experiment, trial.name)
    (Path(experiment.uri) / "trials" / "static_cap1p25-b1" / file).write_bytes(content)
    snapshot = read_snapshot(experiment)
    assert {t.trial.leg.name: t.state for t in snapshot.trials}["static_cap1p25"] == "damaged"
    text = show_all(experiment)
    assert "| `static` | completed | 40 |" in text
    assert "| `static_cap1p25` | damaged | 0 |" in text
    assert "- `static_cap1p25` cannot be read: " in text.split("## Damaged files")[1].split("## ")[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": []},
        {"facts": "x"},
        {"facts": {"backends": []}},
        {"facts": {"backends": {"experts": 3}}},
        {"facts": {"device_name": 3}},
        {"facts": {"world_size": "2"}},
        {"facts": {"compile_cache": ["cold"]}},
        {"versions": {"torch": None}},
        {"number": "0"},
        {"error": {"type": "E"}},
    ],
    ids=str,
)
def test_another_type_is_damage_and_not_a_traceback(
    changes: dict[str, Any], make_experiment: Make, complete: Complete
) -> None:
    experiment = make_experiment()
    for name in ("static-b1", "bf16-b1"):
        complete(experiment, name)
    file = Path(experiment.uri) / "trials" / "static-b1" / "attempts" / "000.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    states = {t.trial.leg.name: t.state for t in read_snapshot(experiment).trials}
    assert (states["static"], states["bf16"]) == ("damaged", "completed")
    show_all(experiment)


# Which attempt is measured


def test_what_describes_a_run_is_of_the_attempt_with_the_window(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    record = experiment.trial("static-b1")
    complete(experiment, "static-b1", device_name="the card of the window")
    record.update_attempt(dataclasses.replace(record.attempt(0), git_commit="c0ffee"))
    last = record.start_attempt(num_workers=1)
    record.update_attempt(
        dataclasses.replace(last, facts={"device_name": "another", "world_size": 1}, git_commit="bad")
    )
    leg = pq.read_table(export_experiment(experiment)[0]).to_pylist()[2]
    assert (leg["leg"], leg["num_workers"], leg["device_name"]) == ("static", 2, "the card of the window")
    assert (leg["git_commit"], leg["attempt_git_commits"]) == ("c0ffee", ["c0ffee", "bad"])
    assert leg["attempt_num_workers"] == [2, 1]


def test_the_report_names_every_commit_with_its_trials(make_experiment: Make, complete: Complete) -> None:
    experiment = make_experiment()
    for name, commit in (("static-b1", "c0ffee"), ("bf16-b1", "badcafe"), ("none_cap1p25-b1", None)):
        complete(experiment, name)
        record = experiment.trial(name)
        record.update_attempt(dataclasses.replace(record.attempt(0), git_commit=commit))
    code = next(line for line in show_all(experiment).splitlines() if line.startswith("| code |"))
    assert "`c0ffee`" in code
    assert "`badcafe`" in code
    assert "(bf16)" in code
    assert "(static, none\\_cap1p25)" in code  # an older attempt knows the launch's commit alone
