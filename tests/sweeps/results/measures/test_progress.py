"""Progress read again and again from a growing experiment."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.live import changes
from cli.progress_table import Look, table_lines
from sweeps.records.documents import AttemptRecord
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.progress import LegProgress, ProgressReader

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
FACTS = {"device_name": "toy"}


@pytest.fixture
def experiment(make_experiment: Make) -> Experiment:
    made = make_experiment()
    made.lock()
    return made


def first(reader: ProgressReader) -> LegProgress:
    return reader.read().legs[0]


def begin(experiment: Experiment, first_step: int | None = None) -> AttemptRecord:
    """An attempt of the first leg; with a step, its trainer has said where it starts."""
    record = experiment.trial("static-b1")
    attempt = record.start_attempt(num_workers=2)
    if first_step is not None:
        attempt = dataclasses.replace(attempt, facts=FACTS, first_step=first_step)
        record.update_attempt(attempt)
    return attempt


def test_nothing_has_started(experiment: Experiment) -> None:
    progress = ProgressReader(experiment).read()
    assert (progress.id, progress.state) == ("20260101_120000_toy", "running")
    assert [leg.name for leg in progress.legs] == ["static", "static_cap1p25", "none_cap1p25", "bf16"]
    assert progress.legs[0] == LegProgress(
        name="static",
        state="pending",
        is_starting=False,
        num_done=0,
        num_steps=40,
        loss=None,
        tok_per_sec=None,
        seconds_left=None,
    )
    assert (progress.num_completed, progress.done_fraction, progress.seconds_left) == (0, 0.0, None)


def test_a_damaged_leg_is_shown_as_such_and_the_others_go_on(
    experiment: Experiment, make_row: MakeRow, complete: Callable[..., None]
) -> None:
    begin(experiment, first_step=0)
    complete(experiment, "bf16-b1")
    reader = ProgressReader(experiment)
    before = reader.read().legs
    file = Path(experiment.uri, "trials", "static-b1", "attempts", "000.json")
    sound = file.read_bytes()
    file.write_bytes(sound[:20])
    damaged, *others = reader.read().legs
    assert (damaged.name, damaged.shown_state, damaged.num_done) == ("static", "damaged", 0)
    assert others == list(before[1:])
    file.write_bytes(sound)
    assert reader.read().legs == before


def test_a_leg_starts_and_trains(experiment: Experiment, make_row: MakeRow) -> None:
    reader, record = ProgressReader(experiment), experiment.trial("static-b1")
    attempt = record.start_attempt(num_workers=2)
    assert (first(reader).state, first(reader).is_starting) == ("running", True)
    record.update_attempt(dataclasses.replace(attempt, facts=FACTS, first_step=0))
    assert not first(reader).is_starting
    record.append_rows(0, [make_row(s) for s in range(10)])
    progress = reader.read()
    leg = progress.legs[0]
    assert (leg.num_done, leg.loss, leg.tok_per_sec) == (10, 9.1, 5120.0)
    assert leg.seconds_left == pytest.approx(30 * 0.1)
    assert progress.done_fraction == 10 / 160
    assert progress.seconds_left == pytest.approx(150 * 0.1)  # the pending legs at the running one's pace
    record.append_rows(0, [make_row(s) for s in range(10, 40)])
    assert first(reader).num_done == 40


def test_a_completed_leg_is_read_once_also_when_its_parts_were_compacted_meanwhile(
    experiment: Experiment, complete: Callable[..., None], make_row: MakeRow
) -> None:
    reader, record = ProgressReader(experiment), experiment.trial("static-b1")
    record.append_rows(0, [make_row(s) for s in range(20)])
    assert first(reader).num_done == 0  # no attempt, no rows
    complete(experiment, "static-b1", [make_row(s) for s in range(20, 40)])
    leg = first(reader)
    assert (leg.state, leg.num_done, leg.loss, leg.seconds_left) == ("completed", 40, pytest.approx(6.1), None)
    assert reader.read().num_completed == 1
    for file in (Path(experiment.uri) / "trials" / "static-b1" / "rows").iterdir():
        file.unlink()
    assert first(reader) == leg


def test_a_continued_leg_goes_back_to_its_checkpoint(experiment: Experiment, make_row: MakeRow) -> None:
    reader, record = ProgressReader(experiment), experiment.trial("static-b1")
    zero = begin(experiment, first_step=0)
    record.append_rows(0, [make_row(s) for s in range(14)])
    record.update_attempt(dataclasses.replace(zero, end="interrupted", first_step=0))
    assert (first(reader).state, first(reader).num_done, first(reader).seconds_left) == ("interrupted", 14, None)
    begin(experiment, first_step=10)
    leg = first(reader)
    assert (leg.state, leg.num_done, leg.seconds_left) == ("running", 10, None)
    record.append_rows(1, [make_row(s, attempt=1, dt_ms=200.0) for s in (10, 11)])
    leg = first(reader)
    assert (leg.num_done, leg.seconds_left) == (12, pytest.approx(28 * 0.2))


def test_a_failed_leg_counts_with_what_it_did(experiment: Experiment, make_row: MakeRow) -> None:
    record = experiment.trial("static-b1")
    attempt = begin(experiment, first_step=0)
    record.append_rows(0, [make_row(s) for s in range(20)])
    record.update_attempt(dataclasses.replace(attempt, end="failed"))
    progress = ProgressReader(experiment).read()
    assert progress.legs[0].state == "failed"
    assert progress.done_fraction == 20 / 140


def test_the_rest_is_estimated_at_the_pace_of_completed_legs(
    experiment: Experiment, complete: Callable[..., None], make_row: MakeRow
) -> None:
    complete(experiment, "static-b1")
    record = experiment.trial("static-b1")
    times = {"started_utc": "2026-01-01T12:00:00.000000Z", "ended_utc": "2026-01-01T12:01:20.000000Z"}
    record.update_attempt(dataclasses.replace(record.attempts()[0], **times))  # 80 s for 40 steps
    progress = ProgressReader(experiment).read()
    assert progress.seconds_left == pytest.approx(3 * 80)


def test_blocks_are_told_apart_and_nobody_running_is_interrupted(make_experiment: Make) -> None:
    progress = ProgressReader(make_experiment(num_blocks=2)).read()
    assert {leg.name for leg in progress.legs} >= {"static-b1", "static-b2"}
    assert (progress.state, progress.seconds_left) == ("interrupted", None)


def test_a_leg_that_learnt_nothing_is_shown_as_diverged(
    experiment: Experiment, complete: Callable[..., None], make_row: MakeRow
) -> None:
    complete(experiment, "static-b1", [make_row(s, loss=float("nan")) for s in range(40)])
    complete(experiment, "bf16-b1")
    reader = ProgressReader(experiment)
    for _ in range(2):
        states = {leg.name: leg.shown_state for leg in reader.read().legs}
        assert (states["static"], states["bf16"], states["none_cap1p25"]) == ("diverged", "completed", "pending")
    assert reader.read().num_completed == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 0.0, 1e308])
@pytest.mark.parametrize("field", ["dt_ms", "tok_per_sec", "loss_ema"])
def test_a_number_that_is_none_leaves_the_table_a_table(
    field: str, bad: float, experiment: Experiment, make_row: MakeRow
) -> None:
    begin(experiment, first_step=0)
    experiment.trial("static-b1").append_rows(0, [make_row(s, **{field: bad}) for s in range(10)])
    progress = ProgressReader(experiment).read()
    lines = table_lines(progress, Look(has_colour=False))
    assert len(lines) == 7
    assert max(map(len, lines)) < 80
    assert changes(None, progress)


def test_a_step_beyond_the_last_is_the_last(experiment: Experiment, make_row: MakeRow) -> None:
    begin(experiment, first_step=0)
    experiment.trial("static-b1").append_rows(0, [make_row(2**62)])
    assert first(ProgressReader(experiment)).num_done == 40
