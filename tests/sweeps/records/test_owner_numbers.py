"""What a launch that was taken for dead still writes changes nothing for its successor, on disks and in buckets."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat.stats import TrainResult
from sweeps.engine.ranks.rank import Rank, RankTask, Superseded
from sweeps.engine.trials.driver import stored_trial
from sweeps.engine.trials.next_move import Move, Policy, next_move
from sweeps.records.documents import BlockMove, Manifest, utc_now
from sweeps.records.experiment import Experiment
from sweeps.records.owner import Owner
from sweeps.records.rows import StepRow
from sweeps.records.store import Store
from sweeps.spec.errors import Locked
from tests.helpers.buckets import ROOT, bucket_in_memory
from tests.helpers.ranks import TRIAL, OneRank
from tests.helpers.rows import trial_result

RESULT = TrainResult(last_step=3, completed=True, peak_mib=1.0, total_time_min=0.5, min_val_bpb=None, num_skipped=0)


@pytest.fixture(params=["disk", "bucket"])
def uri(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_manifest: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    root = str(tmp_path)
    if request.param == "bucket":
        bucket_in_memory(monkeypatch)
        root = ROOT
    monkeypatch.setattr("sweeps.records.liveness.STALE_AFTER_S", 0.2)
    monkeypatch.setattr("sweeps.records.lock.POLL_S", 0.02)
    return Experiment.create(root, "mine", make_manifest(1, "mine")).uri


@pytest.fixture
def launches(uri: str) -> Iterator[tuple[Experiment, Experiment]]:
    """One that was frozen for a minute on another host, and its successor; each has begun an attempt."""
    frozen, successor = Experiment.open(uri), Experiment.open(uri)
    frozen.lock(dataclasses.replace(Owner.this_process(), host="far-away"))
    begin(frozen)
    successor.lock()
    begin(successor)
    yield frozen, successor
    frozen.keep_locked()  # ends its heartbeat
    successor.keep_locked()


def begin(launch: Experiment) -> int:
    return launch.trial(TRIAL).start_attempt(num_workers=1, owner_number=launch.owner_number).number


def rank(launch: Experiment, number: int, tmp_path: Path) -> Rank:
    return Rank(RankTask(launch.uri, TRIAL, number, launch.owner_number), OneRank(tmp_path, number))


def numbers(launch: Experiment) -> list[int]:
    return [attempt.number for attempt in launch.trial(TRIAL).attempts()]


def test_attempts_are_numbered_by_owner_and_the_newest_owners_are_the_latest(
    launches: tuple[Experiment, Experiment], tmp_path: Path
) -> None:
    frozen, successor = launches
    assert numbers(successor) == [0, 1000]
    with pytest.raises(Locked, match="another launch has begun attempts of static-b1"):
        begin(frozen)
    assert begin(successor) == 1001
    late = rank(frozen, 0, tmp_path)
    late.look()
    with pytest.raises(Superseded):
        late.should_stop()
    with pytest.raises(Superseded):
        late.finish(RESULT)
    mine = rank(successor, 1001, tmp_path)
    mine.look()
    assert not mine.should_stop()


def test_an_attempt_that_was_on_its_way_when_the_successor_began_is_the_older_one(
    launches: tuple[Experiment, Experiment], make_row: Callable[..., StepRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frozen launch has looked which number is free before the other took over, and writes now."""
    frozen, successor = launches
    record = successor.trial(TRIAL)
    record.append_rows(1000, [make_row(step, attempt=1000, loss=1.0) for step in range(4)])
    with monkeypatch.context() as patched:
        patched.setattr(Store, "list", lambda self, rel="": ["000.json"])
        assert begin(frozen) == 1
    frozen.trial(TRIAL).append_rows(1, [make_row(step, attempt=1, loss=9.0) for step in range(4)])
    assert numbers(successor) == [0, 1, 1000]
    assert [row.loss for row in record.rows()] == [1.0] * 4


def test_the_frozen_launch_leaves_the_trial_alone(launches: tuple[Experiment, Experiment]) -> None:
    frozen, successor = launches
    assert next_move(stored_trial(frozen, frozen.trial(TRIAL), 0), Policy()) == Move.LEAVE
    assert next_move(stored_trial(successor, successor.trial(TRIAL), 1), Policy()) == Move.CONTINUE


def test_requests_of_the_frozen_launch_are_its_own_and_a_users_are_everybodys(
    launches: tuple[Experiment, Experiment], uri: str
) -> None:
    frozen, successor = launches
    frozen.request_stop("SIGTERM")
    frozen.refuse("no room", 74)
    frozen.refuse_on_node("abc", "no room", 74)
    assert frozen.stop_requested() == "SIGTERM"
    assert frozen.refusal() is not None
    assert (successor.stop_requested(), successor.refusal(), successor.refusal_on_node("abc")) == (None, None, None)
    Experiment.open(uri).request_stop("a user")
    assert successor.stop_requested() == "a user"


def test_the_frozen_launch_neither_adds_blocks_nor_moves_any(launches: tuple[Experiment, Experiment]) -> None:
    frozen, successor = launches
    before = everything_below(successor.store, "")
    with pytest.raises(Locked, match="another launch has taken over"):
        frozen.grow(2)
    beside = Experiment(frozen.store, frozen.manifest)
    beside.act_beside(frozen)
    with pytest.raises(Locked, match="another launch has taken over"):
        beside.move(BlockMove(block=1, node_id="a" * 56, node_host="here", again=[TRIAL], moved_utc=utc_now()))
    assert everything_below(successor.store, "") == before
    successor.grow(1)


def everything_below(store: Store, folder: str) -> dict[str, bytes]:
    """All files but the leases, whose owners beat."""
    found: dict[str, bytes] = {}
    for name in store.list(folder):
        path = f"{folder}/{name}".strip("/")
        below = {} if path == "lock" else everything_below(store, path)
        found.update(below or ({} if path == "lock" or store.list(path) else {path: store.read(path)}))
    return found


def test_the_first_result_stays(launches: tuple[Experiment, Experiment]) -> None:
    frozen, successor = launches
    first = trial_result(TRIAL, last_step=3)
    successor.trial(TRIAL).write_result(first)
    frozen.trial(TRIAL).write_result(dataclasses.replace(first, last_step=2))
    assert successor.trial(TRIAL).result() == first


def test_a_launch_after_the_lock_was_deleted_by_hand_continues_the_newest_attempts(
    launches: tuple[Experiment, Experiment], uri: str
) -> None:
    launches[1].unlock()
    Store(uri).delete_tree("lock")
    third = Experiment.open(uri)
    third.lock()
    assert (third.owner_number, begin(third)) == (2, 1001)
    third.unlock()
    fourth = Experiment.open(uri)
    fourth.lock()
    assert begin(fourth) == 1002
    fourth.unlock()
