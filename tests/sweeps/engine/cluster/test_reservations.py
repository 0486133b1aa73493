"""What a dead driver's controller has reserved is free again for the next attempt, and nothing else is touched."""

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sweeps.engine.cluster.reservations import (
    describe_unmet,
    free_reservations,
    free_reservations_of_dead_launches,
    left_over,
    tagged,
)
from sweeps.engine.processes.launch_processes import MARK_VARIABLE

JOB = "01000000"


def group(state: str, *bundles: dict[str, float]) -> dict[str, Any]:
    return {"state": state, "bundles": dict(enumerate(bundles))}


def test_only_places_for_workers_of_the_same_job_are_left_over() -> None:
    table = {
        "aa" + JOB: group("CREATED", {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}),
        "bb" + JOB: group("PENDING", {"CPU": 1.0}),
        "cc" + JOB: group("REMOVED", {"CPU": 1.0}),
        "dd" + JOB: group("CREATED", {"CPU": 0.01}),
        "ee02000000": group("CREATED", {"CPU": 1.0}),
    }
    assert left_over(table, JOB) == ["aa" + JOB, "bb" + JOB]


def test_a_leg_next_to_others_has_its_own_reservations() -> None:
    table = {
        "aa" + JOB: group("CREATED", tagged({"CPU": 1.0, "GPU": 1.0}, 7), tagged({"CPU": 1.0, "GPU": 1.0}, 7)),
        "bb" + JOB: group("PENDING", tagged({"CPU": 1.0}, 8)),
        "cc" + JOB: group("REMOVED", tagged({"CPU": 1.0}, 7)),
        "dd" + JOB: group("CREATED", {"memory": 7.0}),  # a driver's
        "ee02000000": group("CREATED", tagged({"CPU": 1.0}, 7)),
    }
    assert left_over(table, JOB, 7) == ["aa" + JOB]
    assert left_over(table, JOB, 8) == ["bb" + JOB]
    assert left_over(table, JOB, 9) == []
    assert describe_unmet(table, JOB, {}, {"CPU": 4.0}, 7) is None
    table["bb" + JOB]["strategy"] = "STRICT_PACK"
    words = "1 CPU of one node, of which 1 of 4 are free"
    assert describe_unmet(table, JOB, {"CPU": 1.0}, {"CPU": 4.0}, 8) == words


def test_what_waits_is_described_by_what_it_needs_and_what_is_free() -> None:
    table = {
        "aa" + JOB: group("PENDING", {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}),
        "bb" + JOB: group("CREATED", {"CPU": 0.01}),
        "cc02000000": group("PENDING", {"CPU": 5.0}),
    }
    words = describe_unmet(table, JOB, {"CPU": 3.99, "GPU": 1.0}, {"CPU": 8.0, "GPU": 2.0})
    assert words == "2 CPUs, of which 3.99 of 8 are free and 2 GPUs, of which 1 of 2 are free"
    assert describe_unmet(table, "03000000", {}, {}) is None
    driver = {"aa" + JOB: group("PENDING", {"CPU": 0.01})}
    assert describe_unmet(driver, JOB, {}, {"CPU": 2.0}) == "0.01 CPUs, of which 0 of 2 are free"


@pytest.fixture
def cluster() -> Iterator[Any]:
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield ray
    ray.shutdown()


@pytest.mark.integration
def test_what_a_killed_process_has_reserved_can_be_reserved_again(cluster: Any) -> None:
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    def reserve() -> str:
        workers = placement_group([{"CPU": 1}, {"CPU": 1}])
        assert workers.wait(30)
        return workers.id.hex()

    holder = cluster.remote(num_cpus=0)(type("Holder", (), {"reserve": lambda self: reserve()})).remote()
    id = cluster.get(holder.reserve.remote())
    driver = placement_group([{"CPU": 0.01}])
    assert driver.wait(30)
    cluster.kill(holder)
    next_attempt = placement_group([{"CPU": 1}, {"CPU": 1}])
    assert not next_attempt.wait(3), "Ray keeps what a killed process has reserved"
    remove_placement_group(next_attempt)

    assert free_reservations() == [id]
    assert placement_group([{"CPU": 1}, {"CPU": 1}]).wait(30)
    assert placement_group_table(driver)["state"] == "CREATED"


LEAVES_A_RESERVATION = """
import ray, sys
address, variable = sys.argv[1:]
env = {variable: "folder.owner"} if variable else {}
ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": env})
from ray.util.placement_group import placement_group
left = placement_group([{"CPU": 1}], lifetime="detached", name=f"left by {variable}")
assert left.wait(30)
"""


@pytest.mark.integration
def test_only_what_a_dead_launch_of_ours_has_left_is_freed(cluster: Any) -> None:
    """Detached, so that it stays when its job is dead, as after a kill while a leg is being started."""
    from ray.util.placement_group import placement_group, placement_group_table

    address = cluster.get_runtime_context().gcs_address
    own = placement_group([{"CPU": 1}])
    assert own.wait(30)
    for variable in ("", MARK_VARIABLE):
        subprocess.run([sys.executable, "-c", LEAVES_A_RESERVATION, address, variable], check=True, timeout=120)
    deadline = time.monotonic() + 30
    while not (freed := free_reservations_of_dead_launches()):
        assert time.monotonic() < deadline, "Ray does not take note of the job's end"
        time.sleep(0.5)
    states = {group["name"]: group["state"] for group in placement_group_table().values()}
    assert states == {"": "CREATED", "left by ": "CREATED", f"left by {MARK_VARIABLE}": "REMOVED"}
    assert len(freed) == 1
