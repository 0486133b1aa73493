"""The plan: every trial that one experiment will run, fully resolved and in order, and its form in storage.

A trial is a leg in a block. Block b trains with seed + b, so all legs of a block see the same data in the same order.
One block keeps the order of the definition; several blocks are each shuffled, seeded, against drift over time.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from nanochat.config import ConfigError, TrainConfig, from_dict, get_field, to_dict, with_overrides
from nanochat.sizes import check_world_size, num_steps
from sweeps.spec.checked import plain_name, typed
from sweeps.spec.counting import check_window
from sweeps.spec.errors import CorruptData, SweepError
from sweeps.spec.legs import Leg
from sweeps.spec.names import nearest
from sweeps.spec.parts import Gate, Parallel
from sweeps.spec.sweep import Sweep

MAX_TRIALS = 10_000
MIN_BLOCKS = 3
"""After how many blocks there is a first look at the gates."""
MAX_BLOCKS = 8
"""After how many blocks gates are decided at the latest, if a plan does not say."""
FOLDER_FIELDS = ("data.source", "eval.core_bundle")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One leg in one block of one experiment."""

    name: str
    leg: Leg
    block: int  # counts from 1
    config: TrainConfig


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All trials of an experiment, in the order in which they start."""

    sweep: str
    question: str
    num_workers: int
    num_blocks: int
    max_blocks: int  # of the looks at the gates; fixed before the first one
    window_steps: int
    gates: tuple[Gate, ...]
    legs: tuple[Leg, ...]
    trials: tuple[Trial, ...]
    leg_timeout_s: float | None = None  # after which a leg counts as failed
    parallel: Parallel = None  # blocks at a time, each on one node

    @property
    def baseline(self) -> Leg:
        """The leg that ratios divide by."""
        return next(leg for leg in self.legs if leg.role == "baseline")

    @property
    def candidate(self) -> Leg | None:
        """The leg whose verdict decides the gates, if the sweep has one."""
        return next((leg for leg in self.legs if leg.role == "candidate"), None)

    @property
    def family(self) -> tuple[Leg, ...]:
        """The legs that one set of verdicts is about: those that run, and those that the gates name."""
        run = {trial.leg.name for trial in self.trials}
        named = {gate.reference for gate in self.gates}
        return tuple(leg for leg in self.legs if leg.role in ("baseline", "candidate") or leg.name in run | named)


def make_plan(sweep: Sweep, num_blocks: int = 1, max_blocks: int | None = None) -> Plan:
    """Resolve a sweep into trials. SweepError where a leg cannot be served, or its batch does not divide.

    `max_blocks`: to how many blocks the plan may grow while its gates are undecided; MAX_BLOCKS without it.
    """
    return make_plan_of_legs(sweep, sweep.legs, num_blocks, max_blocks)


def make_plan_of_legs(sweep: Sweep, legs: tuple[Leg, ...], num_blocks: int, max_blocks: int | None) -> Plan:
    """The same for other legs than the sweep's own."""
    if num_blocks < 1:
        raise SweepError(f"the number of blocks must be at least 1, got {num_blocks}")
    if max_blocks is not None and max_blocks < MIN_BLOCKS:
        raise SweepError(f"a verdict takes at least {MIN_BLOCKS} blocks, so --max-blocks {max_blocks} is too few")
    if num_blocks * len(legs) > MAX_TRIALS:
        raise SweepError(
            f"{num_blocks} blocks of {len(legs)} legs are {num_blocks * len(legs):,} trials; at most "
            f"{MAX_TRIALS:,} fit into one experiment"
        )
    for leg in legs:
        try:
            check_world_size(leg.config, sweep.num_workers)
            num_steps(leg.config)
        except ConfigError as error:
            raise SweepError(f"leg {leg.name}: {error}") from None
        check_window(leg, sweep.checkpoint_every, sweep.window.num_steps)
        _check_is_measured(leg, sweep.gates)
    trials = tuple(
        _trial(sweep, leg, block)
        for block in range(1, num_blocks + 1)
        for leg in _block_order(legs, sweep.base.run.seed, block, shuffled=num_blocks > 1)
    )
    return Plan(
        sweep=sweep.name,
        question=sweep.question,
        num_workers=sweep.num_workers,
        num_blocks=num_blocks,
        max_blocks=max(num_blocks, max_blocks or MAX_BLOCKS),
        window_steps=sweep.window.num_steps,
        gates=tuple(sweep.gates),
        legs=legs,
        trials=trials,
        leg_timeout_s=sweep.leg_timeout_s,
        parallel=sweep.parallel,
    )


def _check_is_measured(leg: Leg, gates: Sequence[Gate]) -> None:
    """Raises SweepError for a gate on something that the legs it compares will not measure."""
    names = {leg.name, leg.role}  # a gate names a leg, or the baseline by its role
    for gate in gates:
        if leg.role != "candidate" and gate.reference not in names:
            continue
        if gate.metric == "val_bpb" and leg.config.eval.every is None:
            raise SweepError(f"gate val_bpb: leg {leg.name} measures no validation loss; set eval.every")
        if gate.metric in ("dropped_pct", "max_vio") and leg.config.moe is None:
            raise SweepError(f"gate {gate.metric}: leg {leg.name} has no experts")


def grown(plan: Plan, num_blocks: int) -> Plan:
    """The plan with further blocks of the legs that it runs; nothing that it has changes.

    Raises SweepError past the maximum that was fixed before the first look at the gates.
    """
    if num_blocks > plan.max_blocks:
        raise SweepError(
            f"{num_blocks} blocks are more than the {plan.max_blocks} that were fixed at the launch, and with more the "
            f"gates would be wrong more often than promised; launch the sweep again with --max-blocks {num_blocks}"
        )
    firsts = {trial.leg.name: trial for trial in plan.trials if trial.block == 1}
    legs = tuple(leg for leg in plan.legs if leg.name in firsts)
    if num_blocks * len(legs) > MAX_TRIALS:
        raise SweepError(f"{num_blocks} blocks of {len(legs)} legs are more than {MAX_TRIALS:,} trials")
    more: list[Trial] = []
    for block in range(plan.num_blocks + 1, num_blocks + 1):
        seed = next(iter(firsts.values())).config.run.seed - 1
        for leg in _block_order(legs, seed, block, shuffled=True):
            name = f"{leg.name}-b{block}"
            fields = {"run.name": name, "run.seed": seed + block}
            more.append(Trial(name=name, leg=leg, block=block, config=with_overrides(firsts[leg.name].config, fields)))
    return dataclasses.replace(plan, num_blocks=max(plan.num_blocks, num_blocks), trials=(*plan.trials, *more))


def choose_legs(plan: Plan, names: Sequence[str]) -> Plan:
    """The plan with the trials of some legs only; all legs stay known, so that results can name what is missing."""
    known = [leg.name for leg in plan.legs]
    for name in names:
        if name not in known:
            raise SweepError(f"there is no leg {name!r}{nearest(name, known)}; legs: {', '.join(known)}")
    return dataclasses.replace(plan, trials=tuple(trial for trial in plan.trials if trial.leg.name in names))


def with_absolute_paths(plan: Plan) -> Plan:
    """The plan with the folders that its configs name as absolute paths, as seen from the current directory.

    It can be run from another directory later. The legs' names and ids stay what the sweep file makes them.
    """
    legs = {leg.name: dataclasses.replace(leg, config=_with_absolute_paths(leg.config)) for leg in plan.legs}
    trials = [
        dataclasses.replace(trial, leg=legs[trial.leg.name], config=_with_absolute_paths(trial.config))
        for trial in plan.trials
    ]
    return dataclasses.replace(plan, legs=tuple(legs.values()), trials=tuple(trials))


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    named = {path: get_field(config, path) for path in FOLDER_FIELDS}
    changed = {path: os.path.abspath(os.path.expanduser(folder)) for path, folder in named.items() if folder}
    return with_overrides(config, changed)


def _block_order(legs: tuple[Leg, ...], seed: int, block: int, *, shuffled: bool) -> list[Leg]:
    if not shuffled:
        return list(legs)
    # A digest as the sort key is a shuffle that no version of Python changes.
    return sorted(legs, key=lambda leg: hashlib.sha256(f"{seed}/{block}/{leg.name}".encode()).digest())


def _trial(sweep: Sweep, leg: Leg, block: int) -> Trial:
    name = f"{leg.name}-b{block}"
    fields = {
        "run.name": name,
        "run.seed": sweep.base.run.seed + block,
        "run.checkpoint_every": sweep.checkpoint_every,
    }
    try:
        return Trial(name=name, leg=leg, block=block, config=with_overrides(leg.config, fields))
    except ConfigError as error:  # a seed that a later block cannot count up
        raise SweepError(f"block {block} of leg {leg.name}: {error}") from None


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, with every config in full; trials name their legs."""
    return {
        "sweep": plan.sweep,
        "question": plan.question,
        "num_workers": plan.num_workers,
        "num_blocks": plan.num_blocks,
        "max_blocks": plan.max_blocks,
        "window_steps": plan.window_steps,
        "leg_timeout_s": plan.leg_timeout_s,
        "parallel": plan.parallel,
        "gates": [dataclasses.asdict(gate) for gate in plan.gates],
        "legs": [
            {
                "name": leg.name,
                "id": leg.id,
                "role": leg.role,
                "overrides": leg.overrides,
                "config": to_dict(leg.config),
            }
            for leg in plan.legs
        ],
        "trials": [
            {"name": trial.name, "leg": trial.leg.name, "block": trial.block, "config": to_dict(trial.config)}
            for trial in plan.trials
        ],
    }


def plan_from_json(values: dict[str, Any]) -> Plan:
    """The inverse of `plan_to_json`. CorruptData where the values are not a plan."""
    try:
        legs = {leg.name: leg for leg in map(_leg_from_json, values["legs"])}
        stored = {leg["name"]: leg["config"] for leg in values["legs"]}
        trials = tuple(_trial_from_json(trial, legs, stored) for trial in values["trials"])
        gates = tuple(typed(Gate, gate, "a gate") for gate in values["gates"])
        parts: dict[str, Any] = {"gates": gates, "legs": tuple(legs.values()), "trials": trials}
        if unknown := values.keys() - {field.name for field in dataclasses.fields(Plan)}:
            raise TypeError(f"it has unknown keys: {', '.join(sorted(unknown))}")
        num_blocks = values["num_blocks"]
        older: dict[str, Any] = {"max_blocks": max(MAX_BLOCKS, num_blocks if isinstance(num_blocks, int) else 0)}
        plan = typed(Plan, older | values, "the plan", given=parts)
    except (KeyError, TypeError, AttributeError, ArithmeticError, ConfigError, SweepError, CorruptData) as error:
        raise CorruptData(f"the stored plan cannot be read: {type(error).__name__}: {error}") from error
    _check_stored(plan)
    return plan


def _leg_from_json(values: dict[str, Any]) -> Leg:
    return typed(Leg, values, "a leg", given={"config": from_dict(values["config"])})


def _trial_from_json(values: dict[str, Any], legs: dict[str, Leg], stored: dict[str, dict[str, Any]]) -> Trial:
    leg = legs[values["leg"]]
    config = _config_like(leg.config, stored[leg.name], values["config"])
    return typed(Trial, values, "a trial", given={"leg": leg, "config": config})


def _config_like(known: TrainConfig, known_values: dict[str, Any], values: dict[str, Any]) -> TrainConfig:
    """The config of `values`. Nearly always it differs from one that is checked already in its run section alone."""
    run = values.get("run")
    if not isinstance(run, dict) or {**known_values, "run": run} != values:
        return from_dict(values)
    return with_overrides(known, {"run": cast("dict[str, Any]", run)})


def _check_stored(plan: Plan) -> None:
    """What every plan that was made here is, and what names of folders and the arithmetic of results rely on."""
    for leg in plan.legs:
        plain_name(leg.name, "leg")
    for trial in plan.trials:
        plain_name(trial.name, "trial")
    names = [trial.name for trial in plan.trials]
    roles = [leg.role for leg in plan.legs]
    rules = {
        "two trials have one name": len(set(names)) == len(names),
        "it has too many trials": len(names) <= MAX_TRIALS,
        "it has not exactly one baseline": roles.count("baseline") == 1,
        "it has more than one candidate": roles.count("candidate") <= 1,
        "a trial's block is not among its blocks": all(1 <= t.block <= plan.num_blocks for t in plan.trials),
        "it has more blocks than at most": plan.num_blocks <= plan.max_blocks,
        "it has no workers": plan.num_workers > 0,
        "its window has no steps": plan.window_steps > 0,
        "its blocks at a time are none": plan.parallel is None or plan.parallel == "auto" or plan.parallel > 0,
        "its legs have no time": plan.leg_timeout_s is None or plan.leg_timeout_s > 0,
    }
    for problem, holds in rules.items():
        if not holds:
            raise CorruptData(f"the stored plan cannot be read: {problem}")
