"""Placement groups: what a dead driver or a dead launch left reserved, and what a living one waits for.

The workers' places are a placement group, which Ray Train's controller creates and Ray keeps until the job ends, also
when the controller is gone. The next attempt would wait for GPUs that nothing uses. Ray Train can watch over that by a
process of its own, which a controller that dies right after the creation has not told yet.
"""

# Ray is typed in parts only.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.engine.processes.launch_processes import MARK_VARIABLE
from sweeps.engine.ray_private import ended_jobs_with, is_of_job

_WAITING = ("PENDING", "PREPARED", "RESCHEDULING")


def free_reservations(tag: int | None = None) -> list[str]:
    """Removes reservations of this job for workers, and returns their ids: those of the leg with this tag, without one
    those of all legs. Call it while no attempt runs that they could belong to."""
    import ray
    from ray.util.placement_group import placement_group_table

    found = left_over(placement_group_table(), ray.get_runtime_context().get_job_id(), tag)
    _remove(found)
    return found


def _remove(ids: Sequence[str]) -> None:
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    for id in ids:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(id))))


def free_reservations_of_dead_launches() -> list[str]:
    """Removes the reservations that launches of this tool have left on the cluster, and returns their ids.

    A launcher that is killed while its leg is being started can leave one: Ray makes the reservation after it has
    already cleaned up behind the job. It would keep its CPUs and GPUs from everybody for ever.
    """
    from ray.util.placement_group import placement_group_table

    ended = ended_jobs_with(MARK_VARIABLE)
    found = [
        id
        for id, group in placement_group_table().items()
        if group["state"] != "REMOVED" and any(is_of_job(id, job) for job in ended)
    ]
    _remove(found)
    return found


def unmet_reservation(tag: int | None = None) -> str | None:
    """What a reservation of this job waits for, and how much of it is free; None if no reservation waits.

    `tag`: of the leg that waits, where others run next to it.
    """
    import ray
    from ray.util.placement_group import placement_group_table

    job, free, total = ray.get_runtime_context().get_job_id(), ray.available_resources(), ray.cluster_resources()
    return describe_unmet(placement_group_table(), job, free, total, tag)


def describe_unmet(
    table: Mapping[str, Mapping[str, Any]],
    job_id: str,
    free: Mapping[str, float],
    total: Mapping[str, float],
    tag: int | None = None,
) -> str | None:
    """For instance "2 CPUs, of which 0.5 of 2 are free", from a placement group table and the cluster's resources."""
    waiting = [
        group
        for id, group in table.items()
        if is_of_job(id, job_id) and group["state"] in _WAITING and (tag is None or _has_tag(group, tag))
    ]
    if not waiting:
        return None
    where = " of one node" if any(group.get("strategy") == "STRICT_PACK" for group in waiting) else ""
    needed: dict[str, float] = {}
    for bundle in (bundle for group in waiting for bundle in group["bundles"].values()):
        for kind in bundle.keys() & {"CPU", "GPU"}:
            needed[kind] = needed.get(kind, 0) + bundle[kind]
    return " and ".join(
        f"{amount:g} {kind if amount == 1 else kind + 's'}{where}, of which {free.get(kind, 0):g} of "
        f"{total.get(kind, 0):g} are free"
        for kind, amount in sorted(needed.items())
    )


def left_over(table: Mapping[str, Mapping[str, Any]], job_id: str, tag: int | None = None) -> list[str]:
    """The ids of reservations for workers, by a whole CPU each; a driver's own place is a hundredth of one.

    `tag`: those of one leg, whose workers reserve as many bytes.
    """
    return [
        id
        for id, group in table.items()
        if is_of_job(id, job_id)
        and group["state"] != "REMOVED"
        and any(bundle.get("CPU", 0) >= 1 for bundle in group["bundles"].values())
        and (tag is None or _has_tag(group, tag))
    ]


def tagged(bundle: Mapping[str, float], tag: int) -> dict[str, float]:
    """What a worker of a leg reserves, with the leg's tag.

    Ray Train makes the reservation and gives it no name. What it holds is ours to say, and some bytes of memory more
    are nothing to a node.
    """
    return {**bundle, "memory": float(tag)}


def _has_tag(group: Mapping[str, Any], tag: int) -> bool:
    return any(round(bundle.get("memory", 0)) == tag for bundle in group["bundles"].values())
