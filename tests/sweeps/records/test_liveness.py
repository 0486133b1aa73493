"""Whether an owner lives: asked of the kernel here, seen by its changes from elsewhere, and never of a wall clock."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.records.liveness import Lease, LeaseWatch
from sweeps.records.owner import STALE_AFTER_S, Owner, lives_here

LONG_AGO, FAR_AHEAD = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def lease_elsewhere(heartbeat_utc: str = LONG_AGO, beat: int = 0) -> Lease:
    owner = dataclasses.replace(Owner.this_process(), id="e" * 32, host="far-away")
    return Lease(owner=owner, heartbeat_utc=heartbeat_utc, beat=beat)


def test_a_process_here_lives_as_long_as_it_runs_whatever_its_heartbeat_says() -> None:
    me = Lease(owner=Owner.this_process(), heartbeat_utc=LONG_AGO)
    assert LeaseWatch().lives(me)
    assert not LeaseWatch().lives(dataclasses.replace(me, released=True))


def test_a_reused_pid_is_not_mistaken_for_the_owner() -> None:
    me = Owner.this_process()
    assert me.pid_started is not None
    assert lives_here(me)
    assert lives_here(dataclasses.replace(me, pid_started=me.pid_started - 1)) is False


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    started = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
    assert lives_here(dataclasses.replace(Owner.this_process(), pid=child.pid, pid_started=started)) is False
    child.wait()


@pytest.mark.parametrize("field", ["host", "boot_id", "pid_namespace"])
def test_the_kernel_knows_nothing_of_an_owner_elsewhere(field: str) -> None:
    assert lives_here(dataclasses.replace(Owner.this_process(), **{field: "another"})) is None


@pytest.mark.parametrize("heartbeat_utc", [LONG_AGO, FAR_AHEAD])
def test_a_lease_from_elsewhere_that_stays_the_same_for_a_minute_is_of_a_dead_owner(heartbeat_utc: str) -> None:
    clock, lease = Clock(), lease_elsewhere(heartbeat_utc)
    watch = LeaseWatch(clock)
    assert watch.lives(lease) is None
    clock.now_s += STALE_AFTER_S
    assert watch.lives(lease) is None
    clock.now_s += 1
    assert watch.lives(lease) is False


@pytest.mark.parametrize(
    "changed", [lease_elsewhere(LONG_AGO, beat=1), lease_elsewhere("2019-01-01T00:00:00Z"), lease_elsewhere(FAR_AHEAD)]
)
def test_a_lease_from_elsewhere_that_changes_is_of_a_living_owner_for_another_minute(changed: Lease) -> None:
    clock = Clock()
    watch = LeaseWatch(clock)
    watch.lives(lease_elsewhere())
    clock.now_s += 2 * STALE_AFTER_S
    assert watch.lives(changed)
    clock.now_s += STALE_AFTER_S
    assert watch.lives(changed)
    clock.now_s += 1
    assert watch.lives(changed) is False
    assert watch.lives(dataclasses.replace(changed, beat=7))
