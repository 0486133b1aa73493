"""Presets and settings: the same sweep at another size or with a few fields changed, never with another grid.

A setting that would have no effect, because the plan or an axis decides that field, is rejected. When a setting changes
the number of steps, two numbers follow it: the tail window is at most a quarter of the run, and no longer than the
steps that can count for timing; checkpoints keep their number per run as nearly as may be while none falls inside the
window or shortly before it: the steps next to a save that is still being written do not count for timing.
"""

import ast
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from nanochat.config import ConfigError, TrainConfig, check_path, field_alternatives, with_overrides
from nanochat.recipes import shrink_to_tiny
from nanochat.sizes import checkpoint_bytes
from nanochat.values import shown
from sweeps.spec.counting import countable_steps
from sweeps.spec.errors import SweepError
from sweeps.spec.names import nearest
from sweeps.spec.parts import PLAN_OWNED, TailWindow
from sweeps.spec.sweep import Sweep

P = ParamSpec("P")
R = TypeVar("R")

_STEPS_FOR_A_SAVE = 20  # between the last one and the tail window; a window's length if that is shorter
_BYTES_SAVED_PER_STEP = 90 * 10**6  # 4.2 GiB took some 48 steps of 125 ms on an H200, to a local disk


def _tiny(sweep: Sweep) -> Sweep:
    """Two CPU workers, 40 steps; a run of minutes on a laptop."""
    base = _guarded("preset tiny", shrink_to_tiny, sweep.base)
    return replace(sweep, base=base, num_workers=2, checkpoint_every=20, window=TailWindow(num_steps=10))


PRESETS: dict[str, Callable[[Sweep], Sweep]] = {"tiny": _tiny}


def apply_preset(sweep: Sweep, name: str | None) -> Sweep:
    """The sweep at a preset's size; the sweep itself for None."""
    if name is None:
        return sweep
    if name not in PRESETS:
        raise SweepError(f"unknown preset {name!r}{nearest(name, PRESETS)}; presets: {', '.join(PRESETS)}")
    return PRESETS[name](sweep)


def apply_settings(
    sweep: Sweep,
    *,
    num_workers: int | None = None,
    num_steps: int | None = None,
    sets: Sequence[str] = (),
) -> Sweep:
    """The sweep with the command line's settings, each checked like the sweep file."""
    fields = parse_sets(sets)
    if num_steps is not None and fields.setdefault("schedule.num_steps", num_steps) != num_steps:
        other = shown(fields["schedule.num_steps"])
        raise SweepError(f"--num-steps {num_steps} and --set schedule.num_steps={other} disagree; give one of them")
    _refuse_without_effect(sweep, fields)
    _guarded("--set", with_overrides, sweep.base, fields)
    own_interval = "run.checkpoint_every" in fields
    checkpoint_every = fields.pop("run.checkpoint_every", sweep.checkpoint_every)
    base = _guarded("--set", with_overrides, sweep.base, fields)
    window, steps = sweep.window.num_steps, base.schedule.num_steps
    if fields.get("schedule.num_steps") is not None and steps is not None:
        window = min(window, max(1, steps // 4), countable_steps(base, None) or window)
        if not own_interval and steps != sweep.base.schedule.num_steps:
            checkpoint_every = scaled_interval(
                sweep.checkpoint_every, sweep.base.schedule.num_steps, steps, window, steps_of_a_save(base, window)
            )
        window = min(window, countable_steps(base, checkpoint_every) or window)
    return replace(
        sweep,
        base=base,
        num_workers=sweep.num_workers if num_workers is None else num_workers,
        checkpoint_every=checkpoint_every,
        window=TailWindow(num_steps=window),
    )


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """`field=value` texts as overrides. Values are Python literals; text that is none stands for itself."""
    fields: dict[str, Any] = {}
    for text in sets:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals:
            raise SweepError(f"--set {shown(text)} is not of the form field=value")
        _guarded("--set", check_path, path)
        parsed = _parse_value(path, value.strip())
        if fields.setdefault(path, parsed) != parsed:
            raise SweepError(f"--set names {path} twice, as {shown(fields[path])} and as {shown(parsed)}; give it once")
    return fields


def steps_of_a_save(config: TrainConfig, window: int) -> int:
    """For how many steps a save may go on in the background: by its size, with a least number for small ones."""
    return max(min(window, _STEPS_FOR_A_SAVE), -(-checkpoint_bytes(config) // _BYTES_SAVED_PER_STEP))


def scaled_interval(
    every: int | None, old_steps: int | None, new_steps: int, window: int, save_steps: int
) -> int | None:
    """The checkpoint interval for another number of steps: the nearest to as many saves per run as before.

    None of them begins inside the tail window or in the `save_steps` before it that a save can take. A run that is too
    short for any gets an interval of its whole length.
    """
    if every is None:
        return None
    wanted = every if old_steps is None else max(1, -(-every * new_steps // old_steps))
    if wanted >= new_steps:
        return wanted
    latest = new_steps - window - save_steps
    if 2 * latest < new_steps:  # even the only save of a run would be too late
        return new_steps
    nearest_first = (i for distance in itertools.count() for i in (wanted - distance, wanted + distance))
    return next(i for i in nearest_first if 1 <= i < new_steps and (new_steps - 1) // i * i <= latest)


def _parse_value(path: str, text: str) -> Any:
    alternatives = field_alternatives(path)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return text
    takes_text = str in alternatives or any(isinstance(a, str) for a in alternatives)
    return value if value is None or isinstance(value, str) or not takes_text else text


def _refuse_without_effect(sweep: Sweep, fields: dict[str, Any]) -> None:
    swept = {axis.path for axis in sweep.axes}
    for path in fields:
        for axis in (path, path.partition(".")[0]):
            if axis in swept:
                raise SweepError(f"--set {path} has no effect: {axis} is an axis of this sweep; change it in the file")
        if path == "run.name":
            raise SweepError(f"--set {path} has no effect: {PLAN_OWNED[path]}")


def _guarded(where: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return function(*args, **kwargs)
    except ConfigError as error:
        raise SweepError(f"{where}: {error}") from None
