"""The engine under faults, on a real private Ray cluster, with a toy as the trainer so that a leg takes seconds.

One launch holds legs that fail by themselves (an exception, no memory), and legs whose worker is killed, whose worker
hangs, whose driver is killed: the former must not stop the others, which must resume from their checkpoints.
"""

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import cast

import pytest
import ray.util

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.engine.launch import LaunchResult, run_experiment
from sweeps.engine.processes import launch_processes
from sweeps.engine.ranks.stacks import RankPlace, places, stacks_folder
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, LegCheckpointed, LegFailed, LegInterrupted, LegTraining
from sweeps.engine.watching.hang_watch import Limits
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan
from tests.helpers.toy import Fault, toy_trainer

pytestmark = pytest.mark.integration

NUM_STEPS = 40
NO_JOB = "ffffffff"  # in the names of files of processes that Ray started for no job
FAULTS = {
    "failing": Fault.RAISES,
    "too_large": Fault.NO_MEMORY,
    "worker_killed": Fault.KILLED,
    "worker_hung": Fault.HANGS,
    "driver_killed": Fault.SLOW,
}
COMPLETED = ("worker_killed-b1", "worker_hung-b1", "driver_killed-b1")


def leg_name(config: TrainConfig) -> str:
    return list(FAULTS)[config.run.log_every - 1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    base = with_overrides(shrink_to_tiny(d12_moe(num_steps=NUM_STEPS)), {"schedule.num_steps": NUM_STEPS})
    sweep = Sweep(
        name="faults",
        base=base,
        num_workers=2,
        checkpoint_every=10,
        axes=[Axis("run.log_every", list(range(1, 1 + len(FAULTS))))],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=10),
        leg_name=leg_name,
    )
    plan = make_plan(sweep)
    manifest = new_manifest(plan, id="faults", argv=["test"], settings={})
    experiment = Experiment.create(str(tmp_path_factory.mktemp("storage")), "faults", manifest)
    events: list[Event] = []
    completed_at_refresh: list[int] = []
    living: list[int] = []
    unused: list[str] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, LegCheckpointed) and event.at.trial == "driver_killed-b1":
            first, *others = experiment.trial(event.at.trial).attempts()
            if not others:
                with contextlib.suppress(ProcessLookupError):  # killed at the checkpoint before
                    os.kill(first.pid, signal.SIGKILL)

        if isinstance(event, LegTraining):
            actors = cast(list[dict[str, str]], ray.util.list_named_actors(all_namespaces=True))
            unused.extend(actor["name"] for actor in actors)
            unused.extend(file.name for file in ray_logs().glob(f"worker-*-{NO_JOB}-*.out"))
            living.extend(
                place.pid for place in earlier_ranks(experiment, event) if launch_processes.is_marked(place.pid)
            )

    context = LaunchContext(
        on_event=on_event,
        refresh=lambda e: completed_at_refresh.append(sum(t.result() is not None for t in e.trials())),
        train=toy_trainer(leg_name, FAULTS),
        limits=Limits(first_step_s=300, step_s=20),
    )
    outcome = run_experiment(experiment, context)
    return experiment, outcome, events, completed_at_refresh, living, unused


Run = tuple[Experiment, LaunchResult, list[Event], list[int], list[int], list[str]]


def ray_logs() -> Path:
    """Where the cluster that this process is connected to keeps the logs of this host."""
    node = ray._private.worker._global_node  # pyright: ignore
    return Path(node.get_logs_dir_path())


def earlier_ranks(experiment: Experiment, event: LegTraining) -> list[RankPlace]:
    """All ranks of all attempts before the one that now trains."""
    attempts = [(record.name, a.number) for record in experiment.trials() for a in record.attempts()]
    now = attempts.index((event.at.trial, len(experiment.trial(event.at.trial).attempts()) - 1))
    return [place for name, number in attempts[:now] for place in places(experiment.store, name, number)]


def test_a_failing_leg_stops_no_other_and_is_not_repeated(run: Run) -> None:
    experiment, outcome, events, *_ = run
    assert outcome.exit_code == 5
    assert outcome.failed == ("failing-b1", "too_large-b1")
    assert outcome.completed == COMPLETED
    attempts = experiment.trial("failing-b1").attempts()
    assert [attempt.end for attempt in attempts] == ["failed"]
    assert [event.at.trial for event in events if isinstance(event, LegFailed)] == ["failing-b1", "too_large-b1"]


def test_the_error_of_the_rank_that_failed_first_is_kept_with_its_traceback(run: Run) -> None:
    experiment, _, events, *_ = run
    error = experiment.trial("failing-b1").attempts()[0].error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "the toy broke at step 5")
    assert "toy_train" in error.traceback
    failed = next(event for event in events if isinstance(event, LegFailed))
    assert any("the toy broke at step 5" in line for line in failed.tail)
    steps = [row.step for row in experiment.trial("failing-b1").rows()]
    assert steps[:5] == list(range(5)), "the rows of the last seconds are stored with an error of any rank"


def test_a_leg_whose_worker_is_killed_goes_on_from_its_checkpoint(run: Run) -> None:
    experiment, _, events, *_ = run
    record = experiment.trial("worker_killed-b1")
    assert [(attempt.end, attempt.first_step) for attempt in record.attempts()] == [
        ("interrupted", 0),
        ("completed", 10),
    ]
    interrupted = next(event for event in events if isinstance(event, LegInterrupted))
    assert interrupted.message == "rank 1 was lost: its process died"


def test_a_leg_without_memory_says_what_to_lower(run: Run) -> None:
    (attempt,) = run[0].trial("too_large-b1").attempts()
    assert attempt.error is not None
    assert re.match(r"out of memory at a peak of [\d,]+ MiB; lower data.device_batch_size", attempt.error.message)
    assert "can't allocate memory" in attempt.error.message


def test_a_hung_rank_is_named_and_every_stack_stored_before_the_leg_goes_on(run: Run) -> None:
    experiment = run[0]
    hung, completed = experiment.trial("worker_hung-b1").attempts()
    assert (hung.end, completed.end, completed.first_step) == ("interrupted", "completed", 10)
    assert hung.error is not None
    assert hung.error.type == "RankHung"
    assert re.match(
        r"rank 1 \(\S+, process \d+\) is in toy_train \(toy\.py:\d+\), and the others wait for that\. Nothing",
        hung.error.message,
    )
    stacks = [
        experiment.store.read(f"{stacks_folder('worker_hung-b1')}/a000-r00{rank}.txt").decode() for rank in (0, 1)
    ]
    assert "broadcast_object_list" in stacks[0]
    assert all("in toy_train" in text for text in stacks)


def test_a_leg_whose_driver_is_killed_goes_on_from_its_checkpoint(run: Run) -> None:
    first, second = run[0].trial("driver_killed-b1").attempts()
    assert (first.end, second.end) == (None, "completed")
    assert second.first_step is not None
    assert second.first_step >= 10


def test_every_completed_leg_holds_each_step_once_with_the_same_numbers(run: Run) -> None:
    experiment, outcome, *_ = run
    tables = [[(row.step, row.loss) for row in experiment.trial(name).rows()] for name in outcome.completed]
    assert [step for step, _ in tables[0]] == list(range(NUM_STEPS))
    assert tables[0] == tables[1] == tables[2]


def test_a_ranks_output_is_in_its_legs_log_and_nowhere_else(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    experiment = run[0]
    log = experiment.trial("driver_killed-b1").log_path
    assert log is not None
    assert f"step {NUM_STEPS - 1} total" in log.read_text()
    assert "step" not in capfd.readouterr().out


def test_results_are_regenerated_as_legs_end_and_at_the_end(run: Run) -> None:
    completed = run[3]  # at each regeneration; legs that end during one are in the next
    assert completed == sorted(completed)
    assert completed[0] == 0, "the first leg fails, and is in the results before another completes"
    assert 3 <= len(completed) <= 6
    assert completed[-1] == 3


def test_two_checkpoints_of_an_attempt_are_kept(run: Run) -> None:
    train = Path(run[0].trial("worker_killed-b1").train_uri)
    assert sorted(folder.name for folder in (train / "a001").glob("step_*")) == ["step_000020", "step_000030"]


def test_no_rank_outlives_its_attempt(run: Run) -> None:
    assert run[4] == []


def test_no_process_is_started_that_nothing_can_use(run: Run) -> None:
    assert run[5] == []


def test_nothing_of_the_cluster_is_left(run: Run) -> None:
    assert launch_processes.leftovers(run[0].uri, own_mark="") == []
    assert run[0].owner() is None
