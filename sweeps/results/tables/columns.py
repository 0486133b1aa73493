"""Every column of the exported tables: name, type, unit, meaning, and where its value comes from.

One list per table, in the order of the file. Units and meanings go into the Parquet fields' metadata, and a test holds
docs/parquet.md to these lists. Later versions only add columns.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

from nanochat.config import digest, field_alternatives, field_paths, get_field, to_dict
from sweeps.records.documents import parse_utc
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import Snapshot, TrialSnapshot
from sweeps.results.measures.startup import between_legs_s
from sweeps.results.measures.trial import Measures

Kind = Literal["text", "texts", "int32", "int64", "float64", "float64s", "bool", "utc"]
S = TypeVar("S")

NOT_FINITE = "not_finite"


@dataclass(frozen=True)
class Column(Generic[S]):
    """One column: how it is called, what it means, and its value for one source row."""

    name: str
    kind: Kind
    unit: str
    meaning: str
    of: Callable[[S], Any]


@dataclass(frozen=True)
class LegSource:
    """What a row of legs.parquet is made from."""

    experiment: Snapshot
    trial: TrialSnapshot
    measures: Measures


@dataclass(frozen=True)
class StepSource:
    """What a row of steps.parquet is made from."""

    trial: TrialSnapshot
    row: StepRow
    counts: bool


LEG_COLUMNS: list[Column[LegSource]] = [
    Column("leg", "text", "", "name of the leg", lambda s: s.trial.trial.leg.name),
    Column("trial", "text", "", "name of the trial: leg and block", lambda s: s.trial.trial.name),
    Column("block", "int32", "", "pass over all legs, from 1", lambda s: s.trial.trial.block),
    Column("role", "text", "", "baseline, candidate, grid or control", lambda s: s.trial.trial.leg.role),
    Column("status", "text", "", "state of the trial when exported", lambda s: s.trial.state),
    Column("attempts", "int32", "attempts", "attempts started", lambda s: len(s.trial.attempts)),
    Column("steps_observed", "int32", "steps", "different steps stored", lambda s: s.measures.steps_observed),
    Column("last_step", "int32", "", "index of the last step, from 0", lambda s: s.measures.last_step),
    Column("last_loss", "float64", "nats/token", "log line's average at the last step", lambda s: s.measures.last_loss),
    Column("loss", "float64", "nats/token", "raw mean over the last window steps", lambda s: s.measures.loss),
    Column("min_val_bpb", "float64", "bits/byte", "lowest validation loss", lambda s: s.measures.min_val_bpb),
    Column(
        "tail50_tok_per_sec",
        "float64",
        "tokens/s",
        "plain mean over the last 50 steps",
        lambda s: s.measures.tail50_tok_per_sec,
    ),
    Column(
        "tail50_bf16_mfu_pct",
        "float64",
        "%",
        "plain mean over the last 50 steps",
        lambda s: s.measures.tail50_bf16_mfu_pct,
    ),
    Column("tail50_dt_ms", "float64", "ms", "plain mean over the last 50 steps", lambda s: s.measures.tail50_dt_ms),
    Column(
        "tok_per_sec",
        "float64",
        "tokens/s",
        "a step's tokens over the window's dt_ms",
        lambda s: s.measures.tok_per_sec,
    ),
    Column(
        "dt_ms",
        "float64",
        "ms",
        "10 % trimmed geometric mean over the window of counted steps; null without a whole window",
        lambda s: s.measures.dt_ms,
    ),
    Column(
        "bf16_mfu_pct", "float64", "%", "plain mean over the window of counted steps", lambda s: s.measures.bf16_mfu_pct
    ),
    Column("useful_mfu_pct", "float64", "%", "without dropped assignments", lambda s: s.measures.useful_mfu_pct),
    Column("window_steps", "int32", "steps", "length of the window", lambda s: s.experiment.plan.window_steps),
    Column(
        "counted_steps", "int32", "steps", "steps whose time counts, of all", lambda s: s.measures.num_counted_steps
    ),
    Column(
        "skipped_steps",
        "int32",
        "steps",
        "steps that changed nothing: a gradient was not finite",
        lambda s: s.measures.num_skipped_steps,
    ),
    Column("peak_mib", "float64", "MiB", "peak memory of the fullest rank", lambda s: s.measures.peak_mib),
    Column("dropped_pct", "float64", "%", "assignments dropped, last window steps", lambda s: s.measures.dropped_pct),
    Column(
        "total_time_min", "float64", "min", "time in steps > 10 over all attempts", lambda s: s.measures.total_time_min
    ),
    Column("wall_time_min", "float64", "min", "time in all ended attempts", lambda s: _wall_time_min(s.trial)),
    Column(
        "between_legs_s",
        "float64",
        "s",
        "from the last step of the leg before to the start of the first step; null where it did not follow at once",
        lambda s: between_legs_s(s.experiment, s.trial),
    ),
    Column("started_utc", "utc", "UTC", "start of the first attempt", lambda s: _started(s.trial)),
    Column("ended_utc", "utc", "UTC", "end of the last attempt", lambda s: _ended(s.trial)),
    Column("error_type", "text", "", "what ended the last attempt, if an error", lambda s: _error(s.trial, "type")),
    Column("error_message", "text", "", "its message", lambda s: _error(s.trial, "message")),
    Column("num_workers", "int32", "workers", "ranks of the last attempt", lambda s: s.trial.facts.get("world_size")),
    Column("host", "text", "", "host of the last attempt", lambda s: _last_host(s.trial)),
    Column("device", "text", "", "cpu or cuda", lambda s: s.trial.facts.get("device")),
    Column("device_name", "text", "", "name of the processor or card", lambda s: s.trial.facts.get("device_name")),
    Column(
        "peak_bf16_flops",
        "float64",
        "FLOP/s",
        "the card's dense bf16 peak",
        lambda s: s.trial.facts.get("peak_bf16_flops"),
    ),
    Column(
        "flops_per_token",
        "float64",
        "FLOP/token",
        "model's FLOPs, forward and backward",
        lambda s: s.trial.facts.get("flops_per_token"),
    ),
    Column("num_params", "int64", "parameters", "all parameters", lambda s: s.trial.facts.get("num_params")),
    Column(
        "num_active_params",
        "int64",
        "parameters",
        "parameters a token passes through",
        lambda s: s.trial.facts.get("num_active_params"),
    ),
    Column(
        "total_batch_tokens",
        "int64",
        "tokens",
        "tokens per optimizer step",
        lambda s: s.trial.facts.get("total_batch_tokens"),
    ),
    Column(
        "grad_accum_steps",
        "int32",
        "micro-steps",
        "micro-steps per step",
        lambda s: s.trial.facts.get("grad_accum_steps"),
    ),
    Column("compile_cache", "text", "", "cold, warm, mixed or none", lambda s: s.trial.facts.get("compile_cache")),
    Column("backends_json", "text", "", "kernel of each role", lambda s: _json_or_none(s.trial.facts.get("backends"))),
    Column(
        "attempt_compile_caches",
        "texts",
        "",
        "compile_cache of each attempt",
        lambda s: tuple((a.facts or {}).get("compile_cache") for a in s.trial.attempts),
    ),
    Column(
        "attempt_backends_json",
        "texts",
        "",
        "backends_json of each attempt",
        lambda s: tuple(_json_or_none((a.facts or {}).get("backends")) for a in s.trial.attempts),
    ),
    Column(
        "compile_fallback",
        "text",
        "",
        "why the last attempt went on uncompiled, if compiling failed",
        lambda s: s.trial.facts.get("compile_fallback"),
    ),
    Column("seed", "int64", "", "seed of the run", lambda s: s.trial.trial.config.run.seed),
    Column("leg_id", "text", "", "leg's name and difference from the base", lambda s: s.trial.trial.leg.id),
    Column("config_sha256", "text", "", "digest of the whole config", lambda s: digest(s.trial.trial.config)),
    Column("config_json", "text", "", "the whole config", lambda s: _json_or_none(to_dict(s.trial.trial.config))),
    Column("experiment", "text", "", "id of the experiment", lambda s: s.experiment.manifest.id),
    Column("sweep", "text", "", "name of the sweep", lambda s: s.experiment.manifest.sweep),
    Column(
        "origin",
        "text",
        "",
        "id of the experiment that ran the leg, where it was taken over",
        lambda s: s.trial.origin.experiment if s.trial.origin else None,
    ),
    Column(
        "git_commit",
        "text",
        "",
        "commit of the code that ran",
        lambda s: (s.trial.origin or s.experiment.manifest).git_commit,
    ),
]


_PHASES = {
    "data": "waiting for batches",
    "forward": "forward passes, their share as in the last micro-step",
    "backward": "backward passes, with the communication beside them",
    "optimizer": "update of weights and states",
    "communication": "waiting for other ranks beside no work of its own",
    "checkpoint": "held up by a save before the step; no part of dt_ms",
}


def _phase_column(phase: str, statistic: Literal["ms", "median_ms"]) -> Column[StepSource]:
    """The time of a phase, on the rank that spent most on it or on the median rank."""
    name, rank = f"{phase}_{statistic}", "median" if statistic == "median_ms" else "slowest"
    return Column(name, "float64", "ms", f"{_PHASES[phase]}; {rank} rank", lambda s: getattr(s.row, name))


STEP_COLUMNS: list[Column[StepSource]] = [
    Column("leg", "text", "", "name of the leg", lambda s: s.trial.trial.leg.name),
    Column("trial", "text", "", "name of the trial: leg and block", lambda s: s.row.trial),
    Column("block", "int32", "", "pass over all legs, from 1", lambda s: s.trial.trial.block),
    Column("attempt", "int32", "", "attempt that ran the step, from 0", lambda s: s.row.attempt),
    Column("step", "int32", "", "optimizer step, from 0", lambda s: s.row.step),
    Column("loss", "float64", "nats/token", "raw mean over ranks and micro-steps", lambda s: s.row.loss),
    Column("loss_ema", "float64", "nats/token", "log line's debiased average (0.9)", lambda s: s.row.loss_ema),
    Column("bal", "float64", "", "balance loss summed over layers; top_k x layers is perfect", lambda s: s.row.bal),
    Column("lr_mult", "float64", "", "learning rate over its peak", lambda s: s.row.lr_mult),
    Column("dt_ms", "float64", "ms", "wall time on the slowest rank", lambda s: s.row.dt_ms),
    Column("dt_median_ms", "float64", "ms", "wall time on the median rank", lambda s: s.row.dt_median_ms),
    Column("slowest_rank", "int32", "", "rank that took longest", lambda s: s.row.slowest_rank),
    *(_phase_column(phase, "ms") for phase in _PHASES),
    *(_phase_column(phase, "median_ms") for phase in _PHASES),
    Column("tok_per_sec", "float64", "tokens/s", "tokens of the step over dt_ms", lambda s: s.row.tok_per_sec),
    Column("bf16_mfu_pct", "float64", "%", "model FLOPs over the bf16 peak", lambda s: s.row.bf16_mfu_pct),
    Column("useful_mfu_pct", "float64", "%", "without dropped assignments", lambda s: s.row.useful_mfu_pct),
    Column(
        "compiled_graphs", "int32", "graphs", "compiled by torch.compile in this step", lambda s: s.row.compiled_graphs
    ),
    Column("epoch", "int32", "", "pass over the data, from 1", lambda s: s.row.epoch),
    Column("train_time_s", "float64", "s", "sum of dt over steps > 10 so far", lambda s: s.row.train_time_s),
    Column("dropped_pct", "float64", "%", "assignments that found their queue full", lambda s: s.row.dropped_pct),
    Column("lost_tokens_pct", "float64", "%", "tokens that lost all experts", lambda s: s.row.lost_tokens_pct),
    Column("max_vio", "float64", "", "worst layer's max over mean load, less 1", lambda s: s.row.max_vio),
    Column("dead_experts", "float64", "experts", "experts under 10 % of the mean load", lambda s: s.row.dead_experts),
    Column("z_loss", "float64", "", "routers' z-loss summed over layers, where in use", lambda s: s.row.z_loss),
    Column(
        "largest_router_bias",
        "float64",
        "",
        "largest bias of any expert by magnitude, where in use",
        lambda s: s.row.largest_router_bias,
    ),
    Column(
        "layer_dropped_pct",
        "float64s",
        "%",
        "dropped_pct of each layer with experts, to 4 decimals",
        lambda s: s.row.layer_dropped_pct,
    ),
    Column("layer_lost_tokens_pct", "float64s", "%", "lost_tokens_pct of each", lambda s: s.row.layer_lost_tokens_pct),
    Column("layer_max_vio", "float64s", "", "max_vio of each", lambda s: s.row.layer_max_vio),
    Column("layer_dead_experts", "float64s", "experts", "dead_experts of each", lambda s: s.row.layer_dead_experts),
    Column("peak_mib", "float64", "MiB", "peak memory of the fullest rank so far", lambda s: s.row.peak_mib),
    Column("gpu_clock_mhz", "float64", "MHz", "lowest SM clock of all ranks, at 1 Hz", lambda s: s.row.gpu_clock_mhz),
    Column("gpu_power_w", "float64", "W", "highest power of all ranks, at 1 Hz", lambda s: s.row.gpu_power_w),
    Column(
        "gpu_temperature_c",
        "float64",
        "C",
        "highest temperature of all ranks, at 1 Hz",
        lambda s: s.row.gpu_temperature_c,
    ),
    Column(
        "gpu_throttle_bits",
        "int64",
        "",
        "NVML's clocks event reasons of any rank, at 1 Hz",
        lambda s: s.row.gpu_throttle_bits,
    ),
    Column("val_bpb", "float64", "bits/byte", "validation loss, if measured here", lambda s: s.row.val_bpb),
    Column(
        "core_metric", "float64", "", "mean centred accuracy of CORE, if measured here", lambda s: s.row.core_metric
    ),
    Column("counted", "bool", "", "whether the step's time counts", lambda s: s.counts),
    Column(
        "flags",
        "texts",
        "",
        "why its time may not count; not_finite: a null was NaN",
        lambda s: _flags(s.row),
    ),
]


def varying_fields(snapshot: Snapshot) -> list[str]:
    """The config fields, as dotted paths, in which the trials differ; name and seed have columns of their own."""
    configs = [t.trial.config for t in snapshot.trials]
    own = ("run.name", "run.seed")
    return [p for p in field_paths() if p not in own and len({repr(get_field(c, p)) for c in configs}) > 1]


def parameter_column(path: str) -> Column[LegSource]:
    """The typed column of a config field that varies: moe.capacity_factor -> p_moe_capacity_factor."""
    types = {a if isinstance(a, type) else type(a) for a in field_alternatives(path)} - {type(None)}
    kinds: dict[type, Kind] = {bool: "bool", int: "int64", float: "float64"}
    kind = kinds.get(types.pop(), "text") if len(types) == 1 else "text"
    name = f"p_{path.replace('.', '_')}"
    return Column(name, kind, "", f"config field {path}", lambda s: get_field(s.trial.trial.config, path))


def _flags(row: StepRow) -> list[str]:
    return [*row.flags] if all(map(_is_finite, vars(row).values())) else [*row.flags, NOT_FINITE]


def _is_finite(value: Any) -> bool:
    """Whether a value, or each one in a list, is no NaN and not infinite."""
    if isinstance(value, tuple):
        return all(map(_is_finite, cast("tuple[Any, ...]", value)))
    return not isinstance(value, float) or math.isfinite(value)


def _started(trial: TrialSnapshot) -> Any:
    return parse_utc(trial.attempts[0].started_utc) if trial.attempts else None


def _ended(trial: TrialSnapshot) -> Any:
    ended = trial.attempts[-1].ended_utc if trial.attempts else None
    return parse_utc(ended) if ended else None


def _wall_time_min(trial: TrialSnapshot) -> float | None:
    spans = [parse_utc(a.ended_utc) - parse_utc(a.started_utc) for a in trial.attempts if a.ended_utc]
    return sum(span.total_seconds() for span in spans) / 60 if spans else None


def _error(trial: TrialSnapshot, part: Literal["type", "message"]) -> str | None:
    error = trial.attempts[-1].error if trial.attempts else None
    return getattr(error, part) if error else None


def _last_host(trial: TrialSnapshot) -> str | None:
    return trial.attempts[-1].host if trial.attempts else None


def _json_or_none(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True)
