"""Which trials a command line asks for: what `plan` and `launch` make, what `retry` repeats, what `restore` drops."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from cli.options import Blocks, Legs, MaxBlocks, NumSteps, NumWorkers, ParallelBlocks, Preset, Sets, SweepName

if TYPE_CHECKING:
    from sweeps.records.checkpoints import Keep
    from sweeps.records.documents import TrialState
    from sweeps.spec.plan import Plan
    from sweeps.spec.sweep import Sweep


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What to run, as typed."""

    sweep: SweepName
    preset: Preset = None
    num_workers: NumWorkers = None
    num_steps: NumSteps = None
    blocks: Blocks = "1"
    max_blocks: MaxBlocks = 8
    parallel: ParallelBlocks = None
    legs: Legs = None
    set: Sets = None

    def as_settings(self) -> dict[str, Any]:
        """The form in which a manifest keeps them."""
        return {**asdict(self), "set": list(self.set or ())}

    def plan(self) -> "Plan":
        """The plan, folders as seen from here. Raises SweepError for a sweep, a preset or a setting that cannot be."""
        from sweeps.spec.plan import choose_legs, make_plan, with_absolute_paths

        plan = with_absolute_paths(make_plan(self.sweep_at_size(), first_blocks(self.blocks), self.max_blocks))
        if self.parallel is not None:
            plan = replace(plan, parallel=parallel_blocks(self.parallel))
        return plan if self.legs is None else choose_legs(plan, names_of("--legs", self.legs))

    def sweep_at_size(self) -> "Sweep":
        """The sweep with preset and settings. Raises SweepError for one that cannot be."""
        from sweeps.spec.find import load_sweep
        from sweeps.spec.preset import apply_preset, apply_settings

        scaled = apply_preset(load_sweep(self.sweep), self.preset)
        return apply_settings(scaled, num_workers=self.num_workers, num_steps=self.num_steps, sets=self.set or ())


AUTO: Literal["auto"] = "auto"


def first_blocks(text: str) -> int:
    """How many blocks to plan for `--blocks` N or auto. Raises UsageError for anything else."""
    from sweeps.spec.errors import UsageError
    from sweeps.spec.plan import MIN_BLOCKS

    if text == AUTO:
        return MIN_BLOCKS
    if not text.isascii() or not text.isdecimal() or len(text) > 100:
        raise UsageError(f"--blocks is a number of blocks or {AUTO!r}, got {text!r}")
    return int(text)


def checked_keep(text: str) -> "Keep":
    """The choice of `--keep-checkpoints`. Raises UsageError for anything else."""
    from sweeps.records.checkpoints import KEEP_CHOICES
    from sweeps.spec.errors import UsageError

    for choice in KEEP_CHOICES:
        if choice == text:
            return choice
    raise UsageError(f"--keep-checkpoints is {', '.join(KEEP_CHOICES[:-1])} or {KEEP_CHOICES[-1]}, got {text!r}")


def parallel_blocks(text: str) -> "int | Literal['auto']":
    """How many blocks run at a time for `--parallel` N or auto. Raises UsageError for anything else."""
    from sweeps.spec.errors import UsageError

    if text == AUTO:
        return AUTO
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise UsageError(f"--parallel is a number of blocks from 1 on or {AUTO!r}, got {text!r}")
    return int(text)


def changed_parallel(text: str) -> "int | Literal['auto', 'off']":
    """The same for a restore, which can also turn it off."""
    return "off" if text == "off" else parallel_blocks(text)


def names_of(option: str, text: str) -> list[str]:
    """The names in an option's value, which commas separate. Raises UsageError for one that comes twice or is empty."""
    from sweeps.spec.errors import UsageError

    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name:
            raise UsageError(f"{option} {text!r} holds an empty name; separate names by single commas")
        if names.count(name) > 1:
            raise UsageError(f"{option} names {name} twice")
    return names


def choose_to_retry(
    states: "Mapping[str, TrialState]", leg_of: Mapping[str, str], wanted: Sequence[str] | None
) -> list[str]:
    """The failed trials, or the failed and dropped ones that a user names by leg or by trial, in plan order.

    Raises UsageError for a name that is none, and for one that has neither failed nor been dropped.
    """
    from sweeps.spec.errors import UsageError

    if wanted is None:
        return [trial for trial, state in states.items() if state == "failed"]
    can_run = [trial for trial, state in states.items() if state in ("failed", "dropped")]
    for name, trials in _named(wanted, leg_of).items():
        if not any(trial in can_run for trial in trials):
            seen = f"failed or dropped: {', '.join(can_run)}" if can_run else "none has"
            raise UsageError(f"leg {name} has not failed ({seen}); `nanochat-sweep restore` runs what was interrupted")
    return [trial for trial in can_run if trial in wanted or leg_of[trial] in wanted]


def choose_to_drop(states: "Mapping[str, TrialState]", leg_of: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    """The unfinished trials that a user names by leg or by trial, in plan order.

    What is dropped already may be named again. Raises UsageError for a name that is none, for one whose trials are all
    completed, and if no trial would be left.
    """
    from sweeps.records.documents import COMPLETED_STATES
    from sweeps.spec.errors import UsageError

    for name, trials in _named(wanted, leg_of).items():
        if all(states[trial] in COMPLETED_STATES for trial in trials):
            raise UsageError(f"leg {name} cannot be dropped: it is {states[trials[0]]}")
    chosen = [
        trial
        for trial, state in states.items()
        if (trial in wanted or leg_of[trial] in wanted) and state not in (*COMPLETED_STATES, "dropped")
    ]
    if all(state == "dropped" or trial in chosen for trial, state in states.items()):
        raise UsageError("--drop would leave no leg; delete the experiment with `nanochat-sweep rm`")
    return chosen


def _named(wanted: Sequence[str], leg_of: Mapping[str, str]) -> dict[str, list[str]]:
    """The trials of each name, which is a leg's or a trial's. Raises UsageError where one trial is named twice."""
    from sweeps.spec.errors import UsageError
    from sweeps.spec.names import nearest

    named = {name: [trial for trial, leg in leg_of.items() if name in (trial, leg)] for name in wanted}
    for name, trials in named.items():
        if not trials:
            raise UsageError(f"there is no leg {name!r}{nearest(name, leg_of.values())}")
        if any(leg_of[trial] in named and leg_of[trial] != name for trial in trials):
            raise UsageError(f"{name} is named twice, also as leg {leg_of[trials[0]]}")
    return named
