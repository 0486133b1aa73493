"""What must hold before anything is started: enough workers' places, sizes a CPU can carry, no cluster overlooked.

The decisions are pure; only `local_resources` and `foreign_heads` look at the machine, and neither needs Ray. So a
launch is rejected before it leaves anything behind.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.config import TrainConfig
from nanochat.machine.memory import free_memory_bytes
from nanochat.sizes import cpu_objection
from sweeps.engine.cluster.gpus import visible_gpus
from sweeps.engine.cluster.places import DRIVER_CPUS, LegPlacement, Node, nodes_in_words, num_places, placement
from sweeps.engine.cluster.private import default_session_parent
from sweeps.engine.processes.launch_processes import is_marked
from sweeps.engine.ray_private import head_address
from sweeps.records.checkpoints import KEEP_CHECKPOINTS, Keep, bytes_on_disk, saving_configs
from sweeps.spec.errors import NoCluster, UsageError
from sweeps.spec.plan import Plan

LOCAL = "local"


@dataclass(frozen=True)
class Resources:
    """What there is to run workers on."""

    num_cpus: int | None  # None: declared as needed, since workers without a GPU only share the cores
    num_gpus: int
    where: str  # "this machine", or a cluster's address
    is_private: bool = False  # no other user can have a worker on it
    nodes: tuple[Node, ...] = ()  # none: this machine, with as many CPUs as needed
    num_free_bytes: int | None = None  # of memory, where the workers share one machine's; None: unknown


def device_of(config: TrainConfig, num_gpus: int) -> Literal["cpu", "cuda"]:
    """Where a trial's workers run: as the config says, else on GPUs if there are any."""
    return config.run.device or ("cuda" if num_gpus > 0 else "cpu")


def check_before_start(plan: Plan, num_workers: int, address: str | None) -> str:
    """The cluster to use, an address or `LOCAL`. Raises here what can be known without starting Ray.

    UsageError for an address that cannot be, for a head that was perhaps overlooked, and if no folder is fit for the
    session of a private cluster; NoCluster if this machine has no place for a trial.
    """
    cluster = check_address(address, foreign_heads())
    if cluster == LOCAL:
        default_session_parent()
        check_plan(plan, num_workers, local_resources())
    return cluster


def check_plan(plan: Plan, num_workers: int, resources: Resources, *, on_one_node: bool = False) -> None:
    """Raises NoCluster where a trial of the plan has no place, saying what would have one; UsageError if none has.

    `on_one_node`: each leg gets a node to itself, which is looked at elsewhere.
    """
    for trial in plan.trials:
        on_gpu = device_of(trial.config, resources.num_gpus) == "cuda"
        if on_gpu:
            _check_gpus(plan.sweep, num_workers, resources)
        elif trial.config.model.attention == "flash":
            raise UsageError(
                f"leg {trial.leg.name} has model.attention=flash, which runs on GPUs only, and would run on a CPU; "
                f"leave it at auto"
            )
        else:
            _check_cpus(plan.sweep, trial.config, num_workers, resources)
        if not on_one_node:
            _check_places(plan.sweep, num_workers, resources, on_gpu=on_gpu)


def leg_placement(config: TrainConfig, num_workers: int, resources: Resources) -> LegPlacement:
    """How Ray is to place a leg with this config."""
    return placement(resources.nodes, num_workers, on_gpu=device_of(config, resources.num_gpus) == "cuda")


def why_spread(plan: Plan, num_workers: int, resources: Resources) -> str | None:
    """A sentence if legs of the plan fit on no single node, so that their workers are spread over several."""
    spread = any(leg_placement(trial.config, num_workers, resources).strategy != "STRICT_PACK" for trial in plan.trials)
    if not resources.nodes or not spread:
        return None
    return (
        f"no node holds all {num_workers} workers of a leg next to its driver ({nodes_in_words(resources.nodes)}), so "
        f"they are spread over several nodes and the network between these is part of what is measured; use fewer with "
        f"--num-workers (same total batch size)"
    )


def _check_places(sweep: str, num_workers: int, resources: Resources, *, on_gpu: bool) -> None:
    if not resources.nodes or num_workers <= (places := num_places(resources.nodes, on_gpu=on_gpu)):
        return
    each = "a CPU and a GPU of one node" if on_gpu else "a CPU"
    raise NoCluster(
        f"sweep {sweep} wants {_counted(num_workers, 'worker')}, each with {each}, beside its driver with "
        f"{DRIVER_CPUS} CPU; {resources.where} has place for {places} ({nodes_in_words(resources.nodes)}). Use fewer "
        f"with --num-workers (same total batch size), or give Ray more CPUs (ray start --num-cpus)"
    )


def _check_gpus(sweep: str, num_workers: int, resources: Resources) -> None:
    if num_workers <= resources.num_gpus:
        return
    fewer = f"--num-workers {resources.num_gpus}" if resources.num_gpus else "--num-workers on a machine with GPUs"
    raise NoCluster(
        f"sweep {sweep} wants {_counted(num_workers, 'GPU')}, one per worker; {resources.where} has "
        f"{resources.num_gpus}. Give it fewer with {fewer} (the total batch stays), a cluster with --address, "
        f"or try it at a small size on the CPU with --preset tiny"
    )


def _check_cpus(sweep: str, config: TrainConfig, num_workers: int, resources: Resources) -> None:
    objection = cpu_objection(config, num_workers, resources.num_free_bytes)
    if objection is not None:
        raise NoCluster(
            f"sweep {sweep} wants {_counted(num_workers, 'GPU')}; {resources.where} has none, and its CPU cannot do "
            f"instead: {objection}. Try it at a small size with --preset tiny, or run it where there are GPUs (with "
            f"fewer of them: --num-workers; a cluster: --address)"
        )
    if resources.num_cpus is not None and num_workers > resources.num_cpus:
        raise NoCluster(
            f"sweep {sweep} wants {_counted(num_workers, 'CPU')}, one per worker; {resources.where} has "
            f"{resources.num_cpus}. Give it fewer with --num-workers (the total batch stays)"
        )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def check_disk(plan: Plan, keep: Keep, storage: str, num_free_bytes: int | None) -> None:
    """Raises UsageError where the checkpoints of a plan do not fit into its storage; None: unknown what is free."""
    saving, num_needed = saving_configs(plan), bytes_on_disk(plan, keep)
    if num_free_bytes is None or not saving:
        return
    if num_needed > num_free_bytes:
        raise UsageError(
            f"storage {storage} has {num_free_bytes / 2**30:,.1f} GiB free; the checkpoints of "
            f"{_counted(len(saving), 'trial')} take up to {num_needed / 2**30:,.1f} GiB: {KEEP_CHECKPOINTS + 1} of the "
            f"trial that trains, and --keep-checkpoints={keep} of completed ones. Make room, choose another place with "
            f"--storage, or write none with --set run.final_checkpoint=False --set run.checkpoint_every=None"
        )


def free_bytes(storage: str) -> int | None:
    """What is free on the disk of a folder that may not exist yet; None for what is no disk."""
    if "://" in storage:
        return None
    folder = Path(storage).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None


def check_address(address: str | None, heads: list[str]) -> str:
    """The cluster to use, an address or `LOCAL`. Raises UsageError where a running head was perhaps overlooked."""
    if address is not None and address.startswith("ray://"):
        raise UsageError(f"--address {address} is a Ray client's; give the cluster's own address, like host:6379")
    if address is not None:
        port = address.rpartition(":")[2]
        if port.isdecimal() and not 1 <= int(port[:6]) <= 65535:
            raise UsageError(
                f"--address {address} has no port from 1 to 65535; give the head's address, like host:6379"
            )
        return address
    if heads:
        raise UsageError(
            f"a Ray head is running on this machine ({', '.join(heads)}) and neither --address nor RAY_ADDRESS says "
            f"whether to use it; run there with --address {heads[0]}, or beside it with --address {LOCAL}"
        )
    return LOCAL


def local_resources() -> Resources:
    """This machine's, for a private cluster."""
    return Resources(
        num_cpus=None,
        num_gpus=num_visible_gpus(),
        where="this machine",
        is_private=True,
        num_free_bytes=free_memory_bytes(),
    )


def num_visible_gpus() -> int:
    """NVIDIA GPUs, or parts of one, that CUDA_VISIBLE_DEVICES leaves to us, counted without starting CUDA."""
    parts = [item for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item.startswith("MIG-")]
    return len(parts) or len(visible_gpus())


def foreign_heads() -> list[str]:
    """Addresses of Ray heads on this machine that can be joined and that no launch of this tool has started."""
    pids = sorted(int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    heads = {pid: address for pid in pids if (address := head_address(pid)) is not None}
    return [address for pid, address in heads.items() if not is_marked(pid)]
