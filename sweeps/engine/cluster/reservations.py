"""Placement groups that a dead driver left reserved.

The workers' places are a placement group, which Ray Train's controller creates and Ray keeps until the job ends, also
when the controller is gone. The next attempt would wait for GPUs that nothing uses. Ray Train can watch over that by a
process of its own, which a controller that dies right after the creation has not told yet.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Mapping
from typing import Any

from sweeps.engine.ray_private import is_of_job


def free_reservations() -> list[str]:
    """Removes every reservation of this job for workers, and returns their ids. Call it while no attempt runs: legs of
    a launch run one at a time, so all of them are left over."""
    import ray
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    found = left_over(placement_group_table(), ray.get_runtime_context().get_job_id())
    for id in found:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(id))))
    return found


def left_over(table: Mapping[str, Mapping[str, Any]], job_id: str) -> list[str]:
    """The ids of reservations for workers, by a whole CPU each; a driver's own place is a hundredth of one."""
    return [
        id
        for id, group in table.items()
        if is_of_job(id, job_id)
        and group["state"] != "REMOVED"
        and any(bundle.get("CPU", 0) >= 1 for bundle in group["bundles"].values())
    ]
