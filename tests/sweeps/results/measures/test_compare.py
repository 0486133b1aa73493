"""What is compared with what: ratios block by block, and the reasons against one."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from sweeps.records.documents import AttemptRecord
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.compare import Comparison, compare_legs, differing_code, fastest_fp8_over_bf16
from sweeps.results.measures.snapshot import Snapshot, read_snapshot
from sweeps.results.report.build import build_report, markdown_files

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]
LEG, BASE = "static_cap1p25", "static"


def set_attempt(experiment: Experiment, trial: str, number: int = 0, **changes: Any) -> AttemptRecord:
    record = experiment.trial(trial)
    changed = dataclasses.replace(record.attempt(number), **changes)
    record.update_attempt(changed)
    return changed


def report(snapshot: Snapshot) -> str:
    return markdown_files(build_report([snapshot]), "report.md")["report.md"]


def both(experiment: Experiment, metric: str) -> Comparison:
    return compare_legs(read_snapshot(experiment), LEG, BASE, metric)


@pytest.fixture
def done(make_experiment: Make, complete: Complete) -> Experiment:
    """Baseline and candidate are completed and alike."""
    experiment = make_experiment()
    for leg in (BASE, LEG):
        complete(experiment, f"{leg}-b1")
    return experiment


# Hardware

FACTS: dict[str, Any] = {"world_size": 2, "device_name": "NVIDIA H100", "backends": {"experts": "grouped"}}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"world_size": 1}, "1 worker against 2 workers"),
        ({"device_name": "NVIDIA H100 NVL"}, "NVIDIA H100 NVL against NVIDIA H100"),
        ({"device_name": "NVIDIA H100 MIG 1g.10gb"}, "NVIDIA H100 MIG 1g.10gb against NVIDIA H100"),
        ({"backends": {"experts": "loop"}}, "experts loop against experts grouped"),
    ],
)
def test_time_and_memory_are_not_compared_across_hardware_but_losses_are(
    done: Experiment, facts: dict[str, Any], reason: str
) -> None:
    set_attempt(done, f"{BASE}-b1", facts=FACTS)
    set_attempt(done, f"{LEG}-b1", facts=FACTS | facts)
    for metric in ("tok_per_sec", "dt_ms", "bf16_mfu_pct", "peak_mib", "total_time_min"):
        found = both(done, metric)
        assert (found.by_block, found.barred) == ({}, {1: reason})
    assert both(done, "loss").by_block == {1: 1.0}
    text = report(read_snapshot(done))
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{LEG}` | candidate |")]
    assert line.count(f"not compared: {reason}") == 2
    assert "| 0 % |" in line
    assert f"- `{LEG}` and `{BASE}` are not compared in block 1 in tok/s, peak MiB: {reason}" in text
    assert text.split("\n\n")[2] == f"**INVALID.** `{LEG}` cannot be judged against `{BASE}`: {reason}."


def test_what_is_not_known_is_not_held_against_a_leg(done: Experiment) -> None:
    set_attempt(done, f"{BASE}-b1", facts=FACTS)
    set_attempt(done, f"{LEG}-b1", facts={"world_size": 2}, git_commit=None, versions=None)
    assert both(done, "tok_per_sec").by_block == {1: 1.0}
    assert differing_code(read_snapshot(done), LEG, BASE) == []


def test_kernels_that_the_legs_own_precision_asks_for_may_differ(done: Experiment, complete: Complete) -> None:
    complete(done, "bf16-b1")
    set_attempt(done, f"{BASE}-b1", facts=FACTS | {"backends": {"linears": "fp8", "attention": "sdpa"}})
    set_attempt(done, "bf16-b1", facts=FACTS | {"backends": {"linears": "bf16", "attention": "sdpa"}})
    assert compare_legs(read_snapshot(done), "bf16", BASE, "tok_per_sec").by_block == {1: 1.0}
    set_attempt(done, "bf16-b1", facts=FACTS | {"backends": {"linears": "bf16", "attention": "flash"}})
    barred = compare_legs(read_snapshot(done), "bf16", BASE, "tok_per_sec").barred
    assert barred == {1: "attention flash against attention sdpa"}


@pytest.mark.parametrize(("num_on_two", "num_workers"), [(5, 1), (35, 2)])
def test_a_leg_restored_on_fewer_workers_is_timed_by_those_of_its_window(
    make_experiment: Make, complete: Complete, make_row: MakeRow, num_on_two: int, num_workers: int
) -> None:
    """Two workers until a stop, then one: what can be compared depends on whose steps the window holds."""
    experiment = make_experiment()
    complete(experiment, f"{BASE}-b1")
    record = experiment.trial(f"{LEG}-b1")
    first = record.start_attempt(num_workers=2)
    record.append_rows(0, [make_row(s, trial=f"{LEG}-b1") for s in range(num_on_two)])
    record.update_attempt(dataclasses.replace(first, end="stopped", facts=FACTS, first_step=0))
    flags = [("warmup",) if s < num_on_two + 20 else () for s in range(40)]
    rows = [make_row(s, trial=f"{LEG}-b1", attempt=1, flags=flags[s]) for s in range(num_on_two, 40)]
    complete(experiment, f"{LEG}-b1", rows, world_size=1)
    speed = both(experiment, "tok_per_sec")
    if num_workers == 1:
        assert (speed.by_block, speed.barred) == ({}, {1: "1 worker against 2 workers"})
    else:
        assert (speed.by_block, speed.barred) == ({1: 1.0}, {})
    assert both(experiment, "peak_mib").barred == {1: "2 workers then 1 worker against 2 workers"}
    assert both(experiment, "loss").by_block == {1: 1.0}
    snapshot = read_snapshot(experiment)
    assert compare_legs(snapshot, LEG, LEG, "peak_mib").by_block == {1: 1.0}  # a trial never differs from itself
    leg = next(t for t in snapshot.trials if t.trial.leg.name == LEG)
    assert leg.facts["world_size"] == num_workers


def test_a_block_on_other_hardware_leaves_the_other_blocks_compared_and_counted(
    make_experiment: Make, complete: Complete
) -> None:
    experiment = make_experiment(num_blocks=2)
    for name in (f"{BASE}-b1", f"{BASE}-b2", f"{LEG}-b1"):
        complete(experiment, name)
    complete(experiment, f"{LEG}-b2", world_size=1)
    found = both(experiment, "tok_per_sec")
    assert (found.by_block, found.barred) == ({1: 1.0}, {2: "1 worker against 2 workers"})
    text = report(read_snapshot(experiment))
    (line,) = [line for line in text.splitlines() if line.startswith(f"| `{LEG}` | candidate |")]
    speed, _, peak, loss, *_, blocks = line.strip("| ").split(" | ")[2:]
    assert (speed, peak, loss, blocks) == ("0 % (n = 1)", "0 % (n = 1)", "0 %", "2")
    assert f"- `{LEG}` and `{BASE}` are not compared in block 2 in tok/s, peak MiB: 1 worker against 2 workers" in text
    assert "| tok/s | 0 % | 5,120 against 5,120; not compared: 1 worker against 2 workers; 1 block |" in text


# Code


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"git_commit": "badcafe"}, "commit badcafe against commit c0ffee"),
        ({"git_diff_digest": "f00"}, "uncommitted changes f00 against uncommitted changes abc"),
        ({"versions": {"torch": "2.13.0"}}, "torch 2.13.0 against torch 2.11.0"),
    ],
)
def test_other_code_leaves_all_comparable_as_advice_and_is_said(
    done: Experiment, changes: dict[str, Any], difference: str
) -> None:
    code: dict[str, Any] = {"git_commit": "c0ffee", "git_diff_digest": "abc", "versions": {"torch": "2.11.0"}}
    set_attempt(done, f"{BASE}-b1", **code)
    set_attempt(done, f"{LEG}-b1", **(code | changes))
    assert both(done, "tok_per_sec").by_block == {1: 1.0}
    snapshot = read_snapshot(done)
    assert differing_code(snapshot, LEG, BASE) == [difference]
    said = f"- `{LEG}` and `{BASE}` ran different code, so their comparison is ADVISORY: {difference}"
    assert said in report(snapshot)


# Legs that learnt nothing


def test_a_diverged_leg_is_neither_compared_nor_fastest(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    for name in (f"{BASE}-b1", "bf16-b1"):
        complete(experiment, name)
    rows = [make_row(s, trial=f"{LEG}-b1", tok_per_sec=9e5, loss=float("nan")) for s in range(40)]
    complete(experiment, f"{LEG}-b1", rows)
    snapshot = read_snapshot(experiment)
    assert compare_legs(snapshot, LEG, BASE, "tok_per_sec").barred == {1: f"{LEG} diverged"}
    best = fastest_fp8_over_bf16(snapshot)
    assert best is not None
    assert best[0].name == BASE
    text = report(snapshot)
    assert text.split("\n\n")[2].startswith(
        f"**FAIL.** Do not use `{LEG}`: it diverged: the loss is not a finite number"
    )
    assert f"| `{LEG}` | diverged | 40 |" in text
    assert f"- `{LEG}` diverged, so it is compared with no other: the loss is not a finite number in 10" in text
    gates, legs = text.split("## Gates")[1].split("## ")[:2]
    for section in (gates, legs):
        assert section.count(f"| INVALID: {LEG} diverged |".replace("_", "\\_")) == 1
    assert f"| EXCEEDED: {LEG} diverged |".replace("_", "\\_") in gates


def test_a_diverged_baseline_leaves_nothing_compared(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    complete(experiment, f"{BASE}-b1", [make_row(s, loss=10.0 + s) for s in range(40)])
    complete(experiment, f"{LEG}-b1")
    assert both(experiment, "loss").barred == {1: f"{BASE} diverged"}
