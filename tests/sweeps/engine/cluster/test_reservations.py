"""What a dead driver's controller has reserved is free again for the next attempt, and nothing else is touched."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from sweeps.engine.cluster.reservations import free_reservations, left_over

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
