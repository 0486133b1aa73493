"""A rank that is stopped or hangs is the one that is reported, under Ray with NCCL, while the other waits for its GPU.

The rank that waits is inside a call such as the meter's `.tolist()`, which looks like work and is waiting. Run this
file alone on a host with two GPUs (`python -m pytest tests/gpu/test_hung_rank.py`, three minutes): a process that
already computes on a GPU, as pytest does after other tests here, keeps a launch from using it. The same with gloo on
two CPU workers is an integration test.
"""

import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray.cloudpickle
import torch

from nanochat.config import TrainConfig, with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from nanochat.stats import CHECKPOINT_INDEX, Hooks, TrainResult
from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.engine.watching.events import Event
from sweeps.engine.watching.hang_watch import Limits
from sweeps.records.documents import AttemptRecord
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.spec import Axis, Sweep, TailWindow
from sweeps.spec.plan import make_plan
from tests.helpers.configs import card_config

LEGS = ("stopped", "hanging")
NUM_STEPS, SAVE_EVERY, STRUCK_AFTER = 30, 10, 15
LIMITS_S = {"cpu": 20.0, "cuda": 10.0}
WHO = r"rank 1 \(\S+, process \d+\) "


@pytest.fixture(autouse=True)
def gpu() -> None:
    """Keeps this process off the GPU, where the other files here compute."""


def leg_name(config: TrainConfig) -> str:
    return LEGS[config.run.log_every - 1]


def dawdle() -> None:
    time.sleep(1000)


def struck_once(folder: Path) -> Callable[[TrainConfig, Hooks], TrainResult]:
    """The trainer, whose last rank is struck in the first attempt of each leg, after a step."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # pyright: ignore[reportPrivateImportUsage]

    def train(config: TrainConfig, hooks: Hooks) -> TrainResult:
        import nanochat.train

        steps, leg = itertools.count(1), leg_name(config)
        saved = folder / "hung" / "trials" / f"{leg}-b1" / "train" / "a000" / f"step_{SAVE_EVERY:06d}"

        def step_done() -> None:
            step = next(steps)
            if os.environ["RANK"] != "1" or (folder / leg).exists():
                return
            if step > SAVE_EVERY:
                time.sleep(0.3)  # a GPU's steps take milliseconds, and the save that they overlap does not
            if step >= STRUCK_AFTER and (saved / CHECKPOINT_INDEX).exists():
                (folder / leg).touch()
                dawdle() if leg == "hanging" else os.kill(os.getpid(), signal.SIGSTOP)

        return nanochat.train.train(config, replace(hooks, step_done=step_done))

    return train


@dataclass(frozen=True)
class Hung:
    """How the two legs went, and which threads of the first rank were seen when the other hung."""

    attempts: dict[str, list[AttemptRecord]]
    stacks: dict[str, str]
    completed: tuple[str, ...]


def on(device: str) -> TrainConfig:
    sizes = {"schedule.num_steps": NUM_STEPS}
    return card_config(**sizes) if device == "cuda" else with_overrides(shrink_to_tiny(d12_moe(num_steps=40)), sizes)


@pytest.fixture(
    scope="module",
    params=[pytest.param("cpu", marks=pytest.mark.integration), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def hung(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Hung:
    """Two ranks train two legs one after the other; the second rank of each is struck once."""
    device: str = request.param
    if device == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 GPUs, torch sees {torch.cuda.device_count()}")
    if device == "cuda" and torch.cuda.is_initialized():
        pytest.skip("this process computes on a GPU already; run this file alone")
    folder = tmp_path_factory.mktemp("struck")
    sweep = Sweep(
        name="hung",
        base=on(device),
        num_workers=2,
        axes=[Axis("run.log_every", [1, 2])],
        baseline={"run.log_every": 1},
        window=TailWindow(num_steps=3),
        checkpoint_every=SAVE_EVERY,
        leg_name=leg_name,
    )
    manifest = new_manifest(make_plan(sweep), id="hung", argv=["test"], settings={})
    experiment = Experiment.create(str(folder), "hung", manifest)
    events: list[Event] = []
    context = LaunchContext(
        on_event=events.append,
        refresh=lambda e: e.id,
        train=struck_once(folder),
        limits=Limits(first_step_s=300, step_s=LIMITS_S[device]),
    )
    outcome = run_experiment(experiment, context)
    records = {leg: experiment.trial(f"{leg}-b1") for leg in LEGS}
    return Hung(
        attempts={leg: record.attempts() for leg, record in records.items()},
        stacks={
            leg: experiment.store.read(f"{record.folders.stacks}/a000-r000.txt").decode()
            for leg, record in records.items()
        },
        completed=outcome.completed,
    )


def cause_of(hung: Hung, leg: str) -> str:
    error = hung.attempts[leg][0].error
    assert error is not None
    assert error.type == "RankHung", error.message
    return error.message


def test_a_stopped_rank_is_named(hung: Hung) -> None:
    assert re.match(WHO + r"did not answer within 20 s: killed, stopped, or stuck", cause_of(hung, "stopped"))


def test_a_rank_that_hangs_in_python_is_named_with_the_function(hung: Hung) -> None:
    expected = WHO + r"is in dawdle \(test_hung_rank\.py:\d+\), and the others wait for that\. Nothing was stored"
    assert re.match(expected, cause_of(hung, "hanging"))


def test_the_stack_of_the_rank_that_waits_is_stored_too(hung: Hung) -> None:
    assert all("train" in stack for stack in hung.stacks.values())


def test_each_leg_resumes_from_its_checkpoint_and_is_completed(hung: Hung) -> None:
    assert hung.completed == tuple(f"{leg}-b1" for leg in LEGS)
    for leg in LEGS:
        first, second = hung.attempts[leg]
        assert (first.end, second.end, second.first_step) == ("interrupted", "completed", SAVE_EVERY)
