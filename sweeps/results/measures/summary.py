"""What the steps of one trial amount to, computed once and stored: those of finished trials are not read again.

A summary is a file that can be made again at any time: it carries the stamp of the rows that it was made from, the
window, whether the trial was over, and the version of the arithmetic. Where any of these is another, or anything in it
is not what this version writes, it counts as not there.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Literal

from nanochat.stats import STEP_PHASES
from sweeps.records.documents import json_object
from sweeps.records.steps import Steps
from sweeps.results.measures.divergence import why_diverged
from sweeps.results.measures.trial import (
    Measures,
    counts_for_timing,
    measure,
    num_recompilations,
    slowdowns,
    timing_window,
    why_untimed,
)
from sweeps.spec.checked import typed
from sweeps.spec.errors import CorruptData
from sweeps.spec.metrics import METRICS

LayerField = Literal["layer_dropped_pct", "layer_max_vio", "layer_dead_experts", "layer_lost_tokens_pct"]
LAYER_FIELDS: tuple[LayerField, ...] = (
    "layer_dropped_pct",
    "layer_max_vio",
    "layer_dead_experts",
    "layer_lost_tokens_pct",
)

_SCHEMA = "nanochat-sweep/summary/1"
_VERSION = 2  # of the arithmetic: raise it where a number of a summary changes its meaning
_MOST_STEPS = 10_000_000  # a file that claims more is not believed
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, kw_only=True)
class Slowed:
    """The steps of a trial on GPUs that heat or the hardware slowed down. None: not known."""

    num_steps: int
    num_counted: int  # of these, for timing
    gpu_throttle_bits: int  # all reasons of any of these steps
    lowest_mhz: float | None
    highest_c: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The numbers of one trial that are shown or compared somewhere, and counts."""

    num_steps: int
    of_metric: dict[str, float | None]
    last_step: int | None
    num_counted: int
    skipped: tuple[int, ...]  # how many steps changed nothing, and the last of them; empty for none
    uncounted: tuple[tuple[int, ...], ...]  # first and last place of each run of steps that do not count for timing
    spans: tuple[tuple[int, ...], ...]  # attempt, first and last step that it stored, superseded ones included
    attempts: tuple[int, ...]  # whose steps are the trial's
    last_attempt: int | None
    window_attempt: int | None  # None: there is no timing window
    why_untimed: str  # the reason, if there is none
    torn: tuple[str, ...]
    diverged: str | None
    fell_back: bool
    recompilations: int
    first_attempt: int | None  # of the first step
    first_step_ms: float | None
    last_served_step: int | None
    last_served: str | None  # digest of all tokens served up to that step
    knows_phases: bool
    phases_ms: dict[str, float | None]  # the median over the window, on the median rank: dt and each of STEP_PHASES
    checkpoint_stall_s: float | None
    layers: dict[str, tuple[float, ...]]  # of LAYER_FIELDS: each layer's mean over the last window steps
    slowed: Slowed | None

    @cached_property
    def measures(self) -> Measures:
        """As the comparisons use them."""
        return Measures(
            of_metric=self.of_metric,
            steps_observed=self.num_steps,
            last_step=self.last_step,
            num_counted_steps=self.num_counted,
            num_skipped_steps=self.skipped[0] if self.skipped else 0,
        )

    @property
    def counted(self) -> list[bool]:
        """For each step whether its time counts."""
        counts = [True] * self.num_steps
        for first, last in self.uncounted:
            counts[first : last + 1] = [False] * (last + 1 - first)
        return counts

    @property
    def spans_by_attempt(self) -> dict[int, tuple[int, int]]:
        """Attempt -> first and last step that it stored."""
        return {attempt: (first, last) for attempt, first, last in self.spans}


def summarize(
    steps: Steps,
    window_steps: int,
    *,
    is_over: bool,
    spans: Mapping[int, tuple[int, int]] | None = None,
    torn: Sequence[str] = (),
) -> Summary:
    """The summary of a trial's steps, each once and in order. `is_over`: it has its result."""
    counts = counts_for_timing(steps)
    window = timing_window(steps, counts, window_steps)
    measures = measure(steps, counts, window, window_steps)
    numbers, attempts, flags = steps.ints("step"), steps.ints("attempt"), steps.flags
    skipped = [number for number, of_step in zip(numbers, flags, strict=True) if "skipped" in of_step]
    served = [(n, text) for n, text in zip(numbers, steps.texts("served_digest"), strict=True) if text is not None]
    stalls = [ms for ms in steps.known("checkpoint_ms") if ms is not None]
    first_ms = steps.floats("dt_ms")[0] if steps else math.nan
    return Summary(
        num_steps=len(steps),
        of_metric=measures.of_metric,
        last_step=measures.last_step,
        num_counted=measures.num_counted_steps,
        skipped=(len(skipped), skipped[-1]) if skipped else (),
        uncounted=tuple(_runs(counts)),
        spans=tuple((attempt, first, last) for attempt, (first, last) in sorted((spans or {}).items())),
        attempts=tuple(sorted(set(attempts))),
        last_attempt=attempts[-1] if attempts else None,
        window_attempt=window.ints("attempt")[-1] if window else None,
        why_untimed="" if window or not steps else why_untimed(steps, counts, window_steps),
        torn=tuple(torn),
        diverged=why_diverged(steps, window_steps, is_over=is_over),
        fell_back=any("fallback" in of_step for of_step in flags),
        recompilations=num_recompilations(steps),
        first_attempt=attempts[0] if attempts else None,
        first_step_ms=first_ms if math.isfinite(first_ms) else None,
        last_served_step=served[-1][0] if served else None,
        last_served=served[-1][1] if served else None,
        knows_phases=any(ms is not None for ms in steps.known("forward_median_ms")),
        phases_ms={name: _median(window, f"{name}_median_ms") for name in ("dt", *STEP_PHASES)},
        checkpoint_stall_s=sum(stalls) / 1e3 if stalls else None,
        layers={field: tuple(layer_means([steps[-window_steps:]], field)) for field in LAYER_FIELDS},
        slowed=_slowed(steps, counts),
    )


def layer_means(tails: Sequence[Steps], field: LayerField) -> list[float]:
    """Each layer's mean over the steps that report on layers; nothing if none does."""
    told = [values for tail in tails for values in tail.layers(field) if values is not None]
    layers = range(min(map(len, told), default=0))
    return [sum(values[layer] for values in told) / len(told) for layer in layers]


def encoded(summary: Summary, key: str) -> bytes:
    """The file of a summary; `key` says what it was made from."""
    body = {"schema": _SCHEMA, "key": key, **_plain(dataclasses.asdict(summary))}
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def decoded(data: bytes, key: str) -> Summary | None:
    """The summary in a file if it was made from the same, and is one."""
    try:
        values = json_object(data, "summary")
        if values.get("schema") != _SCHEMA or values.get("key") != key:
            return None
        by_name: dict[str, Any] = {
            **{
                name: {key: _number(item) for key, item in values.pop(name).items()}
                for name in ("of_metric", "phases_ms")
            },
            "layers": {key: tuple(map(_known, items)) for key, items in values.pop("layers").items()},
        }
        found = typed(Summary, values, "summary", given=by_name)
        return found if _is_whole(found) else None
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, CorruptData):
        return None


def key_of(stamp: str, window_steps: int, *, is_over: bool) -> str:
    """What a summary depends on, as one text."""
    return f"{_VERSION} {stamp} {window_steps} {is_over}"


def _is_whole(summary: Summary) -> bool:
    """Whether every number that is looked up by name is there, and each group has as many parts as it must."""
    names = {metric.name for metric in METRICS}
    return (
        summary.of_metric.keys() == names
        and summary.phases_ms.keys() == {"dt", *STEP_PHASES}
        and summary.layers.keys() == set(LAYER_FIELDS)
        and all(len(run) == 2 and run[0] <= run[1] < summary.num_steps for run in summary.uncounted)
        and all(len(span) == 3 for span in summary.spans)
        and len(summary.skipped) in (0, 2)
        and (summary.num_steps == 0) == (summary.last_step is None)
        and summary.num_steps <= _MOST_STEPS
    )


def _runs(counts: Sequence[bool]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for counts_there, places in groupby(range(len(counts)), key=lambda place: counts[place]):
        if not counts_there:
            listed = list(places)
            runs.append((listed[0], listed[-1]))
    return runs


def _median(window: Steps, name: str) -> float | None:
    values = [value for value in window.known(name) if value is not None]
    return statistics.median(values) if values else None


def _slowed(steps: Steps, counts: Sequence[bool]) -> Slowed | None:
    bits = slowdowns(steps)
    reasons = 0
    for slowed_by in bits:
        reasons |= slowed_by
    if not reasons:
        return None
    slowed = steps.where([found != 0 for found in bits])
    return Slowed(
        num_steps=len(slowed),
        num_counted=sum(counts_there and found != 0 for counts_there, found in zip(counts, bits, strict=True)),
        gpu_throttle_bits=reasons,
        lowest_mhz=min((mhz for mhz in slowed.known("gpu_clock_mhz") if mhz is not None), default=None),
        highest_c=max((c for c in slowed.known("gpu_temperature_c") if c is not None), default=None),
    )


def _plain(value: Any) -> Any:
    """What JSON can hold: a number that is not finite becomes a text."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _number(value: Any) -> float | None:
    """A number as it was stored. Raises KeyError, TypeError or OverflowError for anything else."""
    return None if value is None else _known(value)


def _known(value: Any) -> float:
    if value.__class__ is str:
        return _NON_FINITE[value]
    if value.__class__ is float or value.__class__ is int:
        return float(value)
    raise TypeError("not a number")
