"""The numbers of a trial, small enough to check by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields

import pytest

from sweeps.records.rows import StepRow
from sweeps.records.steps import Steps
from sweeps.results.measures import trial
from sweeps.results.measures.trial import Measures, trimmed_mean
from sweeps.spec.metrics import METRICS

MakeRow = Callable[..., StepRow]


def measure(rows: Sequence[StepRow], window_steps: int) -> Measures:
    steps = Steps.of(rows)
    counts = trial.counts_for_timing(steps)
    return trial.measure(steps, counts, trial.timing_window(steps, counts, window_steps), window_steps)


def counted(rows: Sequence[StepRow]) -> list[bool]:
    return trial.counts_for_timing(Steps.of(rows))


def window_of(rows: Sequence[StepRow], window_steps: int) -> list[int]:
    steps = Steps.of(rows)
    return trial.timing_window(steps, trial.counts_for_timing(steps), window_steps).ints("step")


def is_nan(value: float | None) -> bool:
    return value is not None and math.isnan(value)


def num_recompilations(rows: Sequence[StepRow]) -> int:
    return trial.num_recompilations(Steps.of(rows))


def test_tail50_is_the_plain_mean_of_the_last_50_steps(make_row: MakeRow) -> None:
    rows = [make_row(s, dt_ms=float(s), tok_per_sec=2.0 * s, bf16_mfu_pct=None) for s in range(60)]
    m = measure(rows, window_steps=10)
    assert (m["tail50_dt_ms"], m["tail50_tok_per_sec"], m["tail50_bf16_mfu_pct"]) == (34.5, 69.0, None)


def test_tail50_takes_all_steps_where_there_are_fewer_warm_up_included(make_row: MakeRow) -> None:
    m = measure([make_row(s, dt_ms=dt) for s, dt in enumerate([9000.0, 100.0, 200.0])], window_steps=10)
    assert m["tail50_dt_ms"] == 3100.0
    assert (m["dt_ms"], m["tok_per_sec"], m.num_counted_steps) == (None, None, 0)


def test_a_trial_without_steps_has_no_numbers() -> None:
    m = measure([], window_steps=10)
    assert m.steps_observed == m.num_counted_steps == m.num_skipped_steps == 0
    assert m.last_step is None
    assert m.of_metric == dict.fromkeys(metric.name for metric in METRICS)


def test_280_steps_end_at_step_279_with_the_last_averaged_loss(make_row: MakeRow) -> None:
    m = measure([make_row(s, loss_ema=5 - s / 100, train_time_s=s * 0.6) for s in range(280)], window_steps=50)
    assert (m.steps_observed, m.last_step, m["last_loss"]) == (280, 279, 5 - 2.79)
    assert m["total_time_min"] == pytest.approx(2.79)


def test_loss_is_the_raw_mean_over_the_window_and_peak_the_highest(make_row: MakeRow) -> None:
    rows = [make_row(s, loss=float(s), peak_mib=900.0 - s, dropped_pct=float(s % 2)) for s in range(40)]
    m = measure(rows, window_steps=4)
    assert (m["loss"], m["dropped_pct"], m["peak_mib"]) == (37.5, 0.5, 900.0)


def test_a_nan_loss_stays_visible(make_row: MakeRow) -> None:
    m = measure([make_row(0), make_row(1, loss=math.nan, loss_ema=math.nan)], window_steps=2)
    assert is_nan(m["last_loss"])


def test_a_step_counts_unless_it_is_flagged_however_slow_it_was(make_row: MakeRow) -> None:
    rows = [make_row(19), make_row(20, dt_ms=1e6), make_row(21, flags=("checkpoint",)), make_row(22)]
    assert counted(rows) == [False, True, False, True]


def test_a_steady_slow_down_counts_and_a_change_of_it_does_not(make_row: MakeRow) -> None:
    rows = [make_row(s, gpu_throttle_bits=None if s < 22 else 4) for s in range(20, 30)]  # a power cap is normal
    for s, bits in ((24, 4 | 32), (25, 4 | 32), (26, 4 | 32 | 64), (27, 32 | 64)):
        rows[s - 20] = make_row(s, gpu_throttle_bits=bits, flags=("throttled",))
    assert [row.step for row, counts in zip(rows, counted(rows), strict=True) if not counts] == [24, 26, 28]
    assert counted([make_row(20, gpu_throttle_bits=32, flags=("checkpoint", "throttled"))]) == [False]


def test_the_window_is_the_last_n_counted_steps_of_one_attempt(make_row: MakeRow) -> None:
    rows = [make_row(s) for s in range(40)]
    rows[35] = make_row(35, flags=("eval",))
    assert window_of(rows, 6) == [33, 34, 36, 37, 38, 39]
    assert window_of(rows, 20) == []
    rows[38:] = [make_row(s, attempt=1) for s in (38, 39)]
    assert window_of(rows, 6) == []
    assert window_of(rows, 2) == [38, 39]


def test_the_window_time_is_a_trimmed_geometric_mean(make_row: MakeRow) -> None:
    times = [100.0, 400.0, 1.0, 1e9, 100.0, 400.0, 100.0, 400.0, 100.0, 400.0]  # the two extremes are trimmed
    rows = [make_row(20 + i, dt_ms=dt, tok_per_sec=512_000 / dt) for i, dt in enumerate(times)]
    m = measure(rows, window_steps=10)
    assert m["dt_ms"] == pytest.approx(200.0)
    assert m["tok_per_sec"] == pytest.approx(2560.0)


def test_a_tenth_is_trimmed_at_each_end() -> None:
    assert trimmed_mean([5.0]) == 5.0
    assert trimmed_mean([0.0] * 9 + [9.0]) == 0.0
    assert trimmed_mean([1.0, 2.0, 3.0]) == 2.0


def test_the_first_compilation_of_an_attempt_is_no_recompilation(make_row: MakeRow) -> None:
    def flagged(steps: set[int], attempt: int = 0) -> list[StepRow]:
        return [make_row(s, attempt=attempt, flags=("recompile",) if s in steps else ()) for s in range(12)]

    assert num_recompilations(flagged({0, 1, 2, 3, 4, 5})) == 0
    assert num_recompilations(flagged({0, 1, 8, 9, 11})) == 2
    assert num_recompilations(flagged(set()) + flagged({0, 1}, attempt=1)) == 0


# Numbers that storage holds and arithmetic does not


def test_the_throughput_of_the_window_is_a_steps_tokens_over_its_time(make_row: MakeRow) -> None:
    rows = [make_row(20 + i, dt_ms=dt, tok_per_sec=512_000 / dt) for i, dt in enumerate([90.0, 100.0, 130.0] * 7)]
    m = measure(rows, window_steps=20)
    dt_ms = m["dt_ms"]
    assert dt_ms is not None
    assert m["tok_per_sec"] == pytest.approx(512_000 / dt_ms)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1.0, 5e-324, 1.7e308])
@pytest.mark.parametrize("field", [f.name for f in fields(StepRow) if f.type in ("float", "float | None", float)])
def test_any_number_in_any_field_gives_numbers_or_none_and_no_error(field: str, bad: float, make_row: MakeRow) -> None:
    rows = [make_row(s, **({field: bad} if s > 30 else {})) for s in range(40)]
    for value in measure(rows, window_steps=10).of_metric.values():
        assert value is None or isinstance(value, float)


@pytest.mark.parametrize("bad_ms", [math.nan, math.inf, 0.0, -1.0])
def test_a_time_that_is_none_leaves_no_window(bad_ms: float, make_row: MakeRow) -> None:
    rows = [make_row(s, **({"dt_ms": bad_ms} if s == 35 else {})) for s in range(40)]
    assert window_of(rows, 10) == []
    assert measure(rows, 10)["tok_per_sec"] is None
    assert window_of(rows, 4) == [36, 37, 38, 39]


def test_an_infinite_or_missing_number_does_not_vanish_in_a_mean_or_a_maximum(make_row: MakeRow) -> None:
    rows = [make_row(s, **({"loss": math.nan, "peak_mib": math.nan} if s == 35 else {})) for s in range(40)]
    m = measure(rows, 10)
    assert is_nan(m["loss"])
    assert is_nan(m["peak_mib"])
