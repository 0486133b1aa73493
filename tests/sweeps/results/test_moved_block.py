"""A block that left its node: what storage, status, the live table and the report say of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cli.progress_table import Look, table_lines
from sweeps.records.documents import BlockMove
from sweeps.records.experiment import Experiment
from sweeps.results.measures.progress import ProgressReader
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.report.build import refresh
from sweeps.results.status import run_table, status_json

Make = Callable[..., Experiment]
LOST, OTHER = "aa" * 28, "bb" * 28


def bind(experiment: Experiment, trial: str, node_id: str, host: str) -> None:
    record = experiment.trial(trial)
    record.update_attempt(dataclasses.replace(record.attempts()[-1], node_id=node_id, node_host=host))


def move(*again: str) -> BlockMove:
    return BlockMove(
        block=1, node_id=OTHER, node_host="two", again=list(again), moved_utc="2026-01-01T12:10:00.000000Z"
    )


def test_a_completed_leg_of_a_moved_block_is_to_do_and_its_rows_stay(
    make_experiment: Make, complete: Callable[..., None]
) -> None:
    experiment = make_experiment(num_blocks=2)
    complete(experiment, "static-b1")
    complete(experiment, "static-b2")
    bind(experiment, "static-b1", LOST, "one")
    rows = experiment.trial("static-b1").rows()
    experiment.trial("static-b1").train_store.write("a000/checkpoint_000039/index.json", b"{}")
    experiment.move(move("static-b1"))
    states = experiment.trial_states()
    assert (states["static-b1"], states["static-b2"]) == ("interrupted", "completed")
    assert experiment.trial("static-b1").rows() == rows
    assert experiment.trial("static-b1").train_store.everything() == []
    assert [attempt.again_utc is not None for attempt in experiment.trial("static-b1").attempts()] == [True]
    assert experiment.moves() == [move("static-b1")]


def test_who_watches_sees_that_a_completed_leg_runs_again(
    make_experiment: Make, complete: Callable[..., None], make_row: Callable[..., Any]
) -> None:
    experiment = make_experiment(num_blocks=2)
    experiment.lock()
    first = experiment.plan.trials[0].name
    complete(experiment, first)
    bind(experiment, first, LOST, "one")
    reader = ProgressReader(experiment)
    assert [leg.state for leg in reader.read().legs][:2] == ["completed", "pending"]
    experiment.move(move(first))
    attempt = experiment.trial(first).start_attempt(num_workers=2, node_id=OTHER, node_host="two")
    experiment.trial(first).append_rows(attempt.number, [make_row(0, trial=first, attempt=attempt.number)])
    leg = reader.read().legs[0]
    assert (leg.state, leg.num_done, leg.node) == ("running", 1, "two/bbbbbb")
    lines = table_lines(reader.read(), Look(columns=120, has_colour=False))
    assert lines[1].split() == ["leg", "state", "step", "loss", "tok/s", "ETA", "node"]
    assert lines[2].endswith("two/bbbbbb")


def test_status_and_report_say_where_legs_ran(make_experiment: Make, complete: Callable[..., None]) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    assert "node" not in run_table(read_snapshot(experiment))[0]
    bind(experiment, "static-b1", LOST, "one")
    experiment.move(move("static-b1"))
    complete(experiment, "static-b1")
    bind(experiment, "static-b1", OTHER, "two")
    snapshot = read_snapshot(experiment)
    headings, static, other, *_ = run_table(snapshot)
    assert [headings[-1], static[-1], other[-1]] == ["node", "two/bbbbbb", "-"]
    found, unstarted, *_ = status_json(snapshot)["trials"]
    assert (found["host"], found["node_id"], found["attempts"]) == ("two", OTHER, 2)
    assert (unstarted["host"], unstarted["node_id"]) == (None, None)
    refresh(experiment)
    report = experiment.store.read("report/report.md").decode()
    assert "Block 1 moved to two/bbbbbb at 2026-01-01T12:10:00.000000Z; again from their start: static-b1." in report
    assert "attempt 0 on one/aaaaaa stored steps 0 to 39 and completed, and ran again on another node" in report
