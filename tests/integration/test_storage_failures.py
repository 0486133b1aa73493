"""Storage that fails in the middle of a launch, on a real Ray cluster: one sentence, exit code 74, and a restore.

The disk is a small one that a test fills; the bucket is on moto's S3 server, behind a proxy that goes away. The trainer
is a toy.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.engine.launch import LaunchResult, run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event, LegFailed, LegTraining, Refused, Warned
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan
from tests.helpers.s3_server import s3_server, use
from tests.helpers.toy import Fault, toy_trainer

pytestmark = [pytest.mark.integration, pytest.mark.long]

OUTAGE_S = 100.0
LEGS = ("slow", "next")


def leg_name(config: TrainConfig) -> str:
    return LEGS[config.run.log_every - 1]


def create(storage: str) -> Experiment:
    base = with_overrides(shrink_to_tiny(d12_moe(num_steps=40)), {"schedule.num_steps": 40})
    sweep = Sweep(
        name="failures",
        base=base,
        num_workers=2,
        checkpoint_every=10,
        axes=[Axis("run.log_every", [1, 2])],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=10),
        leg_name=leg_name,
    )
    return Experiment.create(storage, "mine", new_manifest(make_plan(sweep), id="mine", argv=["test"], settings={}))


def run(experiment: Experiment, strike: Callable[[], object]) -> tuple[LaunchResult, list[Event]]:
    """A launch in which `strike` is called when the first leg has begun to train."""
    events: list[Event] = []

    def on_event(event: Event) -> None:
        is_first = isinstance(event, LegTraining) and not any(isinstance(e, LegTraining) for e in events)
        events.append(event)
        if is_first:
            strike()

    train = toy_trainer(leg_name, {"slow": Fault.SLOW})
    context = LaunchContext(on_event=on_event, refresh=lambda _: None, num_workers=2, address="local", train=train)
    return run_experiment(experiment, context), events


def errors(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Refused)]


def check_restore(uri: str) -> None:
    restored = Experiment.open(uri)
    result, events = run(restored, lambda: None)
    assert (result.exit_code, result.unfinished, errors(events)) == (0, (), []), [str(event) for event in events]
    for name in ("slow-b1", "next-b1"):
        assert [row.step for row in restored.trial(name).rows()] == list(range(40))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_ends_a_launch_with_its_name_and_blames_no_leg(small_disk: Path) -> None:
    experiment, filler = create(str(small_disk)), small_disk / "filler"
    result, events = run(experiment, lambda: filler.write_bytes(bytes(shutil.disk_usage(small_disk).free)))
    assert (result.exit_code, result.failed) == (74, ())
    (said,) = errors(events)
    assert said.startswith(f"the disk at {small_disk}, which holds {experiment.uri}, is full (")
    assert "nanochat-sweep restore" in said
    assert not any(isinstance(event, LegFailed) for event in events)
    assert not [event for event in events if isinstance(event, Warned) and "No space" in event.message]
    filler.unlink()
    experiment.unlock()  # which the full disk refused; a launch of its own would have ended with its process
    check_restore(experiment.uri)


def test_an_outage_of_a_bucket_ends_a_launch_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as server:
        server.make_bucket("bucket")
        use(server, monkeypatch)

        def outage() -> None:
            server.is_away = True
            time.sleep(OUTAGE_S)
            server.is_away = False

        experiment = create("s3://bucket/exps")
        result, events = run(experiment, threading.Thread(target=outage, daemon=True).start)
        assert (result.exit_code, result.failed) == (74, ())
        (said,) = errors(events)
        assert said.startswith(f"storage {experiment.uri} fails (")
        assert said.endswith(f"continue with nanochat-sweep restore {experiment.uri}")
        check_restore(experiment.uri)
