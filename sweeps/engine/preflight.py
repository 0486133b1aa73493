"""A few steps of every leg before the first one runs for real: what cannot compile or fit shows in minutes.

A preflight is a separate experiment inside the real one, in `EXP/preflight`: the same attempts, rows and logs, but each
leg once, three steps, and no checkpoint. A leg that fails here is reported immediately and still runs: only its real
run decides about it. Compiled graphs stay in the cache, so the real legs start with them.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from nanochat.config import digest, with_overrides
from sweeps.engine.watching.events import (
    Event,
    LegCompleted,
    LegFailed,
    LegInterrupted,
    PreflightEnded,
    Refused,
    Stopping,
    Warned,
)
from sweeps.records.experiment import Experiment
from sweeps.spec.plan import Plan, Trial, plan_to_json

FOLDER = "preflight"
STEPS_PER_LEG = 3


def short_plan(plan: Plan, completed: Collection[str] = ()) -> Plan:
    """Each leg once, in the plan's order, without those whose trials are all among the completed."""
    firsts: dict[str, Trial] = {}
    for trial in plan.trials:
        if trial.name not in completed:
            firsts.setdefault(trial.leg.name, _short(trial))
    parallel = None if plan.parallel is None else 1
    return replace(plan, num_blocks=1, window_steps=1, trials=tuple(firsts.values()), parallel=parallel)


def _short(trial: Trial) -> Trial:
    changes = {"schedule.num_steps": STEPS_PER_LEG, "run.checkpoint_every": None, "run.final_checkpoint": False}
    return replace(trial, block=1, config=with_overrides(trial.config, changes))


def create_preflight(experiment: Experiment) -> Experiment:
    """Creates the preflight's experiment inside the real one."""
    completed = [record.name for record in experiment.trials() if record.result() is not None]
    plan = plan_to_json(short_plan(experiment.plan, completed))
    manifest = replace(experiment.manifest, id=f"{experiment.id}-preflight", plan=plan, plan_digest=digest(plan))
    return Experiment.create(experiment.uri, FOLDER, manifest)


@dataclass(frozen=True)
class PreflightEvents:
    """Passes on of a preflight's events each leg's end, and what concerns the whole launch."""

    experiment: Experiment  # the preflight's
    on_event: Callable[[Event], None]

    def __call__(self, event: Event) -> None:
        """Called for every event of the preflight."""
        if isinstance(event, LegCompleted):
            rows = self.experiment.trial(event.at.trial).rows()
            first_step_s, peak_mib = rows[0].dt_ms / 1e3, max(row.peak_mib for row in rows)
            fell_back = any("fallback" in row.flags for row in rows)
            how = "could not be compiled, runs uncompiled" if fell_back else "runs"
            text = f"{how}; first step {first_step_s:.1f} s, peak {peak_mib:,.0f} MiB"
            self.on_event(PreflightEnded(at=event.at, is_ok=True, text=text))
        elif isinstance(event, LegFailed):
            self.on_event(PreflightEnded(at=event.at, is_ok=False, text=f"failed, will still run: {event.error}"))
        elif isinstance(event, LegInterrupted | Refused | Stopping | Warned):
            self.on_event(event)
