"""Why two legs differ: the phases add up to the step, the wall time to the attempts, and what is unknown is None."""

import dataclasses

import pytest

from sweeps.records.documents import AttemptRecord
from sweeps.records.rows import StepRow
from sweeps.records.steps import Steps
from sweeps.results.measures.explanation import explain
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.time_split import compile_seconds, time_split
from sweeps.spec.errors import UsageError
from tests.helpers.judged import judged_experiment
from tests.helpers.rows import row


def with_phases(trial: TrialSnapshot) -> TrialSnapshot:
    """The backward pass of cap1 takes 10 ms less; all else is equal."""
    backward = 40.0 if trial.trial.leg.name == "cap1" else 50.0
    rows = [
        row(
            step,
            trial=trial.trial.name,
            dt_ms=50 + backward,
            tok_per_sec=5e6 / (50 + backward),
            data_median_ms=1.0,
            forward_median_ms=20.0,
            backward_median_ms=backward,
            optimizer_median_ms=25.0,
            communication_median_ms=3.0,
            compiled_graphs=5 if step == 0 else 0,
            loss=4.0 if step else 9.0,
        )
        for step in range(40)
    ]
    return dataclasses.replace(trial, steps=Steps.of(rows))


def test_a_difference_is_followed_to_its_phase():
    found = explain(judged_experiment({}, change=with_phases), "cap1", None)
    assert (found.against, found.num_blocks) == ("cap0", 4)
    assert found.part("step", "dt").change == pytest.approx(-10)
    assert found.part("step", "rest").leg == pytest.approx(1)
    part, share = found.shares[0]
    assert (part.name, share) == ("backward", pytest.approx(1.0))
    assert found.fields == {"moe.capacity_factor": (1.0, None)}
    assert found.part("clocks", "SM clock").leg is None
    assert found.speed == pytest.approx(100 / 90)


def test_phases_rest_and_injected_delay_add_up_to_the_step():
    found = explain(judged_experiment({}, change=with_phases), "cap1", "bf16")
    parts = [p for p in found.parts if p.section == "step" and p.name != "dt"]
    assert sum(p.leg or 0 for p in parts) == pytest.approx(found.part("step", "dt").leg)


@pytest.mark.parametrize(
    ("leg", "against", "message"),
    [
        ("cap9", None, "has no leg 'cap9'; did you mean cap"),
        ("cap1", "bf61", "did you mean bf16"),
        ("cap0", None, "it is the baseline; name another leg with --against"),
        ("cap1", "cap1", "set against itself"),
    ],
)
def test_a_leg_that_is_none_is_rejected(leg: str, against: str | None, message: str):
    with pytest.raises(UsageError, match=message):
        explain(judged_experiment({}), leg, against)


def test_what_compiling_took_is_what_its_steps_took_beyond_a_typical_one():
    times = [5000.0, 100.0, 100.0, 1100.0, 100.0]
    rows = [row(s, dt_ms=ms, compiled_graphs=int(ms > 1000)) for s, ms in enumerate(times)]
    assert compile_seconds(Steps.of(rows)) == pytest.approx(4.9 + 1.0)
    assert compile_seconds(Steps.of([row(0, compiled_graphs=None)])) == 0


def attempt(number: int, start: str, first: str, ended: str, **changes: object) -> AttemptRecord:
    day = "2026-01-01T12:{}.000000Z"
    return dataclasses.replace(
        AttemptRecord(number=number, host="h", pid=1, started_utc=day.format(start), num_workers=2),
        first_step_utc=day.format(first),
        ended_utc=day.format(ended),
        **changes,  # pyright: ignore[reportArgumentType]
    )


def split(attempts: list[AttemptRecord], rows: list[StepRow]):
    snapshot: Snapshot = judged_experiment({}, num_blocks=1)
    trial = dataclasses.replace(snapshot.trials[0], attempts=attempts, steps=Steps.of(rows))
    manifest = dataclasses.replace(snapshot.manifest, created_utc="2026-01-01T11:59:50.000000Z")
    alone = dataclasses.replace(snapshot, manifest=manifest, trials=[trial])
    found = time_split(alone, trial)
    assert found is not None
    return found


def test_the_wall_time_of_one_attempt_divides_without_a_rest_that_is_not_named():
    rows = [row(s, dt_ms=1000.0, checkpoint_ms=500.0 if s == 2 else 0.0, compiled_graphs=0) for s in range(4)]
    found = split([attempt(0, "00:00", "00:11", "00:20", run_s=20.0)], rows)
    assert (found.queue, found.start, found.train, found.saves, found.lost) == (10.0, 10.0, 4.0, 0.5, 0.0)
    assert found.other == pytest.approx(20 - 10 - 4 - 0.5)


def test_what_an_interruption_cost_is_lost():
    """Steps 0 to 3 of attempt 0, of which 2 and 3 were run again by attempt 1, 30 s later."""
    rows = [row(s, attempt=0 if s < 2 else 1, dt_ms=1000.0) for s in range(5)]
    attempts = [attempt(0, "00:00", "00:06", "00:10"), attempt(1, "00:40", "00:46", "00:49")]
    found = split(attempts, rows)
    assert (found.start, found.train, found.other) == (10.0, 5.0, None)
    assert found.lost == pytest.approx(49 - 10 - 5)


def test_what_storage_does_not_say_is_unknown():
    older = AttemptRecord(number=0, host="h", pid=1, started_utc="2026-01-01T12:00:00.000000Z", num_workers=2)
    found = split([older], [row(s) for s in range(3)])
    assert (found.start, found.other) == (None, None)
    assert found.train == pytest.approx(0.3)
