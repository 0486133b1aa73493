"""What a plan will take before it has run: from earlier runs of the same configs, or from a given speed.

An earlier run says everything: how long a step took, and how long start, compilation and saves came on top. A speed
alone says how long the steps take. Without either the time is unknown, and nothing is guessed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from nanochat.config import TrainConfig, digest, with_overrides
from nanochat.sizes import batch_tokens, cpu_objection, num_steps
from sweeps.records.checkpoints import bytes_on_disk
from sweeps.records.clock import wall_s
from sweeps.records.experiment import Experiment
from sweeps.records.home import list_experiments
from sweeps.records.store import Store
from sweeps.records.trial import TrialRecord
from sweeps.spec.errors import SweepToolError
from sweeps.spec.plan import Plan

MAX_EXPERIMENTS = 50  # that are looked through for earlier runs, newest first
_UNTIMED_STEPS = 11  # that a result's total time leaves out
_OF_THE_TRIAL = {"run.name": "any", "run.seed": 0, "run.checkpoint_every": None, "schedule.num_steps": 1}


@dataclass(frozen=True, kw_only=True)
class LegTime:
    """How long one trial of a leg takes."""

    seconds: float
    source: str  # an experiment's id, or a speed
    is_steps_alone: bool  # start, compilation and saves come on top
    uses_gpu: bool | None  # None: not known
    card: str | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a plan takes. A leg without a time is None: it is not known."""

    of_leg: dict[str, LegTime | None]
    num_trials_of_leg: dict[str, int]
    num_workers: int
    disk_bytes: int  # of checkpoints, the most at one time

    @property
    def unknown(self) -> list[str]:
        """The legs of which no time is known."""
        return [leg for leg, time in self.of_leg.items() if time is None]

    @property
    def seconds(self) -> float | None:
        """Of all trials, one after the other; None if a leg is unknown."""
        times = [(time, self.num_trials_of_leg[leg]) for leg, time in self.of_leg.items()]
        return None if self.unknown else sum(time.seconds * number for time, number in times if time is not None)

    @property
    def gpu_hours(self) -> float | None:
        """None if the time is unknown or nothing says that it is spent on GPUs."""
        on_gpus = [time is not None and time.uses_gpu for time in self.of_leg.values()]
        return self.seconds * self.num_workers / 3600 if self.seconds is not None and all(on_gpus) else None


def cost_of(plan: Plan, root: str | None, tok_per_sec: float | None) -> Cost:
    """The cost of a plan by a given speed, else by the earlier runs below `root`; None: look for none."""
    legs = {trial.leg.name: trial.config for trial in plan.trials}
    times: dict[str, LegTime] = {}
    if tok_per_sec is not None:
        times = {leg: _time_at(config, tok_per_sec) for leg, config in legs.items()}
    elif root is not None:
        times = _earlier_times(legs, root, plan.num_workers)
    names = [trial.leg.name for trial in plan.trials]
    return Cost(
        of_leg={leg: times.get(leg) for leg in legs},
        num_trials_of_leg={leg: names.count(leg) for leg in legs},
        num_workers=plan.num_workers,
        disk_bytes=bytes_on_disk(plan, "none"),
    )


def _time_at(config: TrainConfig, tok_per_sec: float) -> LegTime:
    seconds = num_steps(config) * batch_tokens(config) / tok_per_sec
    needs_gpu = cpu_objection(config, 1, None) is not None or config.run.device == "cuda"
    uses_gpu = True if needs_gpu else False if config.run.device == "cpu" else None
    return LegTime(seconds=seconds, source=f"{tok_per_sec:,.0f} tok/s", is_steps_alone=True, uses_gpu=uses_gpu)


def _earlier_times(legs: dict[str, TrainConfig], root: str, num_workers: int) -> dict[str, LegTime]:
    """From the newest experiment that has completed a leg's config on as many workers."""
    wanted = {leg: _identity(config) for leg, config in legs.items()}
    found: dict[str, LegTime] = {}
    for experiment in _newest_experiments(root):
        try:
            times = _times_in(experiment, {leg: wanted[leg] for leg in wanted if leg not in found}, legs, num_workers)
        except (SweepToolError, OSError):
            continue
        found |= times
        if len(found) == len(legs):
            break
    return found


def _identity(config: TrainConfig) -> str:
    """Equal for configs that take equally long per step."""
    return digest(with_overrides(config, _OF_THE_TRIAL))


def _newest_experiments(root: str) -> Iterator[Experiment]:
    try:
        names = list_experiments(root)
    except SweepToolError:
        return
    store, opened = Store(root), list[Experiment]()
    for name in sorted(names, reverse=True)[:MAX_EXPERIMENTS]:
        try:
            opened.append(Experiment.open(store.uri_of(name)))
        except (SweepToolError, OSError):
            continue
    yield from sorted(opened, key=lambda experiment: experiment.manifest.created_utc, reverse=True)


def _times_in(
    experiment: Experiment, wanted: dict[str, str], legs: dict[str, TrainConfig], num_workers: int
) -> dict[str, LegTime]:
    identity_of = {trial.name: _identity(trial.config) for trial in experiment.plan.trials}
    found: dict[str, LegTime] = {}
    for leg, identity in wanted.items():
        trials = [trial for trial in experiment.plan.trials if identity_of[trial.name] == identity]
        runs = [
            run
            for trial in trials
            if (run := _run_of(experiment.trial(trial.name), num_steps(legs[leg]), num_workers)) is not None
        ]
        if runs:
            found[leg] = LegTime(
                seconds=median(seconds for seconds, _, _ in runs),
                source=experiment.id,
                is_steps_alone=False,
                uses_gpu=runs[0][1],
                card=runs[0][2],
            )
    return found


def _run_of(record: TrialRecord, steps: int, num_workers: int) -> tuple[float, bool, str | None] | None:
    """Seconds from the start to the end, for so many steps; on a GPU; its card. None if this run cannot tell."""
    result, attempts = record.result(), record.attempts()
    if result is None or len(attempts) != 1 or attempts[0].num_workers != num_workers:
        return None
    whole, facts = wall_s(attempts[0]), attempts[0].facts or {}
    num_done, on = result.last_step + 1, (facts.get("device") == "cuda", facts.get("device_name"))
    if whole is None:
        return None
    if num_done == steps:
        return whole, *on
    if num_done <= _UNTIMED_STEPS:
        return None
    step_s = result.total_time_min * 60 / (num_done - _UNTIMED_STEPS)
    return max(whole + step_s * (steps - num_done), step_s * steps), *on
