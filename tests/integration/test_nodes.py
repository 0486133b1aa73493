"""Legs on clusters of several nodes, which are Ray nodes of this machine: where Ray puts their workers."""

from pathlib import Path

import pytest

from sweeps.engine.launch import run_experiment
from sweeps.engine.ranks.stacks import places
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, Warned
from sweeps.records.experiment import Experiment
from sweeps.spec.errors import NoCluster
from tests.helpers.nodes import leg_name, nodes, toy_experiment
from tests.helpers.toy import toy_trainer

pytestmark = pytest.mark.integration


def run(experiment: Experiment, address: str) -> tuple[int, list[Event], list[int]]:
    """The exit code, what was told, and on how many nodes the ranks of each trial were."""
    events: list[Event] = []
    context = LaunchContext(
        on_event=events.append, refresh=lambda e: None, address=address, train=toy_trainer(leg_name, {})
    )
    code = run_experiment(experiment, context).exit_code
    trials = [places(experiment.store, record.name, 0) for record in experiment.trials()]
    return code, events, [len({place.node_id for place in ranks}) for ranks in trials]


def test_a_leg_is_packed_onto_the_node_that_holds_it_with_its_driver_elsewhere(tmp_path: Path) -> None:
    """The larger node holds two workers exactly, so the driver must be on the other one."""
    with nodes(2, 1) as cluster:
        code, events, num_nodes = run(toy_experiment(tmp_path, num_legs=1, num_workers=2), cluster.address)
    assert (code, num_nodes) == (0, [1])
    assert not [event for event in events if isinstance(event, Warned)]


def test_a_leg_that_fits_on_no_node_is_refused_or_spread_with_a_warning(tmp_path: Path) -> None:
    with nodes(1, 1) as cluster:
        with pytest.raises(NoCluster, match=r"wants 2 workers.*has place for 1 \(nodes with 1 CPUs, 1 CPUs\)"):
            run(toy_experiment(tmp_path / "a", num_legs=1, num_workers=2), cluster.address)
        cluster.add_node(num_cpus=1)
        code, events, num_nodes = run(toy_experiment(tmp_path / "b", num_legs=1, num_workers=2), cluster.address)
    assert (code, num_nodes) == (0, [2])
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert [text.partition(" (")[0] for text in warnings] == ["no node holds all 2 workers of a leg next to its driver"]
