"""Every number by which trials are compared: its name, how it reads, which way is better, how it follows from steps.

One table for gates, Parquet, status, report and figures; a new metric is one entry here. An entry says how its value
follows from a trial's steps as plain data, so that this file needs nothing to check a sweep's gates.
"""

from dataclasses import dataclass
from typing import Literal

Statistic = Literal["mean", "trimmed_geometric_mean", "last", "highest", "lowest"]
Over = Literal["window", "last_n", "tail50", "all"]


@dataclass(frozen=True)
class Reading:
    """A statistic of one column of the steps.

    Over the timing window (the last N counted steps of one attempt), the last N or the last 50 steps whatever happened
    in them, or all.
    """

    statistic: Statistic
    column: str  # of the stored rows
    over: Over
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a trial."""

    name: str  # in Parquet, gates and code
    label: str  # in tables and figures
    unit: str
    digits: int  # after the point
    better: Literal["higher", "lower"] | None
    meaning: str
    read: Reading
    is_gate: bool = False  # a gate can bound it
    needs_equal_hardware: bool = False  # compared only where workers, card and kernels are the same
    is_of_pairs: bool = False  # only a ratio of two trials has a value; a single trial has none
    status_name: str | None = None  # in `status --json` and the run summary: the name known from training logs
    status_heading: str | None = None  # in the run summary, if another one is known there

    @property
    def run_heading(self) -> str:
        """The heading in the run summary."""
        return self.status_heading or self.status_name or self.label


METRICS: tuple[Metric, ...] = (
    Metric(
        name="last_loss",
        label="last loss",
        unit="nats/token",
        digits=4,
        better="lower",
        meaning="log line's average at the last step",
        read=Reading("last", "loss_ema", "all"),
        status_name="last_loss",
    ),
    Metric(
        name="loss",
        label="loss",
        unit="nats/token",
        digits=4,
        better="lower",
        meaning="raw mean over the last window steps",
        read=Reading("mean", "loss", "last_n"),
        is_gate=True,
    ),
    Metric(
        name="min_val_bpb",
        label="lowest val bpb",
        unit="bits/byte",
        digits=4,
        better="lower",
        meaning="lowest validation loss",
        read=Reading("lowest", "val_bpb", "all"),
    ),
    Metric(
        name="val_bpb",
        label="val bpb",
        unit="bits/byte",
        digits=4,
        better="lower",
        meaning="last validation loss",
        read=Reading("last", "val_bpb", "all"),
        is_gate=True,
    ),
    Metric(
        name="tail50_tok_per_sec",
        label="tail50 tok/s",
        unit="tokens/s",
        digits=0,
        better="higher",
        meaning="plain mean over the last 50 steps",
        read=Reading("mean", "tok_per_sec", "tail50"),
        needs_equal_hardware=True,
        status_name="tail50_tok_sec",
        status_heading="tail50_tok/sec",
    ),
    Metric(
        name="tail50_bf16_mfu_pct",
        label="tail50 bf16 MFU %",
        unit="%",
        digits=2,
        better="higher",
        meaning="plain mean over the last 50 steps",
        read=Reading("mean", "bf16_mfu_pct", "tail50"),
        needs_equal_hardware=True,
        status_name="tail50_bf16_mfu",
        status_heading="tail50_mfu",
    ),
    Metric(
        name="tail50_bf16_mfu_printed_pct",
        label="tail50 printed MFU %",
        unit="%",
        digits=2,
        better=None,
        meaning="plain mean of the last 50 that an imported log prints, against the peak that it assumes",
        read=Reading("mean", "bf16_mfu_printed_pct", "tail50"),
        needs_equal_hardware=True,
    ),
    Metric(
        name="tail50_dt_ms",
        label="tail50 dt ms",
        unit="ms",
        digits=1,
        better="lower",
        meaning="plain mean over the last 50 steps",
        read=Reading("mean", "dt_ms", "tail50"),
        needs_equal_hardware=True,
        status_name="tail50_dt_ms",
    ),
    Metric(
        name="tok_per_sec",
        label="tok/s",
        unit="tokens/s",
        digits=0,
        better="higher",
        meaning="a step's tokens over the window's dt_ms",
        read=Reading("trimmed_geometric_mean", "tok_per_sec", "window"),
        is_gate=True,
        needs_equal_hardware=True,
    ),
    Metric(
        name="dt_ms",
        label="dt ms",
        unit="ms",
        digits=1,
        better="lower",
        meaning="10 % trimmed geometric mean over the window of counted steps; null without a whole window",
        read=Reading("trimmed_geometric_mean", "dt_ms", "window"),
        is_gate=True,
        needs_equal_hardware=True,
    ),
    Metric(
        name="bf16_mfu_pct",
        label="bf16 MFU %",
        unit="%",
        digits=2,
        better="higher",
        meaning="the window's dt_ms as MFU, so that it moves as tok_per_sec does",
        read=Reading("trimmed_geometric_mean", "bf16_mfu_pct", "window"),
        is_gate=True,
        needs_equal_hardware=True,
    ),
    Metric(
        name="useful_mfu_pct",
        label="useful MFU %",
        unit="%",
        digits=2,
        better="higher",
        meaning="bf16_mfu_pct without dropped assignments",
        read=Reading("trimmed_geometric_mean", "useful_mfu_pct", "window"),
        is_gate=True,
        needs_equal_hardware=True,
    ),
    Metric(
        name="peak_mib",
        label="peak MiB",
        unit="MiB",
        digits=0,
        better="lower",
        meaning="peak memory of the fullest rank",
        read=Reading("highest", "peak_mib", "all"),
        is_gate=True,
        needs_equal_hardware=True,
        status_name="peak_mem_mib",
    ),
    Metric(
        name="dropped_pct",
        label="dropped %",
        unit="%",
        digits=2,
        better="lower",
        meaning="assignments dropped, last window steps",
        read=Reading("mean", "dropped_pct", "last_n"),
        is_gate=True,
    ),
    Metric(
        name="max_vio",
        label="MaxVio",
        unit="",
        digits=3,
        better="lower",
        meaning="worst layer's max over mean load, less 1; mean over the last window steps",
        read=Reading("mean", "max_vio", "last_n"),
        is_gate=True,
    ),
    Metric(
        name="total_time_min",
        label="total min",
        unit="min",
        digits=2,
        better="lower",
        meaning="time in steps > 10 over all attempts",
        read=Reading("last", "train_time_s", "all", scale=1 / 60),
        is_gate=True,
        needs_equal_hardware=True,
        status_name="total_time_min",
    ),
)

PAIR_METRICS: tuple[Metric, ...] = (
    Metric(
        name="loss_at_equal_time",
        label="loss at equal time",
        unit="",
        digits=4,
        better="lower",
        meaning="mean loss of the window at the end of the shorter training of two, compilation excluded",
        read=Reading("mean", "loss", "all"),
        is_gate=True,
        needs_equal_hardware=True,
        is_of_pairs=True,
    ),
)
"""Metrics of two trials of one block, for gates alone: no table of trials can have a column of them."""

METRIC: dict[str, Metric] = {metric.name: metric for metric in (*METRICS, *PAIR_METRICS)}
GATE_METRICS = tuple(metric.name for metric in METRIC.values() if metric.is_gate)
LEADING = (METRIC["tok_per_sec"], METRIC["peak_mib"], METRIC["loss"])
"""What is shown first of a leg: in the headline, the table of ratios and the main figure."""
