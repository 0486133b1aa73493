"""`handoff`: all that is needed to take an experiment over, for people and for programs."""

import json
from typing import TYPE_CHECKING

from cli.options import AsJson, Exp, Storage

if TYPE_CHECKING:
    from sweeps.records.experiment import Experiment
    from sweeps.results.handoff import Machine


def handoff(exp: Exp, as_json: AsJson = False, storage: Storage = None) -> None:
    """Print what is done, what is left, and how to continue.

    Markdown: state, decision, commands for the rest, environment, GPUs.
    """
    from cli.console import out
    from cli.stored import open_snapshot
    from sweeps.results.handoff import handoff_json, handoff_markdown

    experiment, snapshot = open_snapshot(exp, storage)
    machine = _machine(experiment)
    if as_json:
        out(json.dumps(handoff_json(snapshot, machine), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        out(handoff_markdown(snapshot, machine).rstrip("\n"))


def _machine(experiment: "Experiment") -> "Machine":
    """This machine as it is now. Processes of the experiment itself do not make a GPU busy."""
    import platform
    import socket
    import sys

    from sweeps.engine.cluster.gpus import command, holders, visible_gpus
    from sweeps.records.provenance import running_place
    from sweeps.results.handoff import Machine

    gpus, owner = visible_gpus(), experiment.owner()
    busy = [f"GPU {held.gpu} by process {held.pid} ({command(held.pid)})" for held in holders("", gpus)]
    return Machine(
        host=socket.gethostname(),
        checkout=running_place(),
        environment=sys.prefix,
        python=platform.python_version(),
        num_gpus=len(gpus) or None,
        busy=tuple(busy),
        runner=f"process {owner.pid} on {owner.host}" if owner is not None else None,
    )
