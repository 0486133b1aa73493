"""The columns of steps.parquet (each step of each trial once) in the order of the file; later versions only add some.

But for those in `OWN_COLUMNS`, a column is the stored rows' field of that name.
"""

from typing import Literal

from sweeps.results.tables.column import About

OWN_COLUMNS = ("leg", "trial", "block", "counted", "experiment", "tokens_seen", "ended_utc")
"""What does not stand in the rows under that name."""

_PHASES = {
    "data": "waiting for batches",
    "forward": "forward passes, their share as in the last micro-step",
    "backward": "backward passes, with the communication beside them",
    "optimizer": "update of weights and states",
    "communication": "waiting for other ranks beside no work of its own",
    "checkpoint": "held up by a save before the step; no part of dt_ms",
}


def _phase_column(phase: str, statistic: Literal["ms", "median_ms"]) -> About:
    """The time of a phase, on the rank that spent most on it or on the median rank."""
    rank = "median" if statistic == "median_ms" else "slowest"
    return About(f"{phase}_{statistic}", "float64", "ms", f"{_PHASES[phase]}; {rank} rank")


STEP_COLUMNS: list[About] = [
    About("leg", "text", "", "name of the leg"),
    About("trial", "text", "", "name of the trial: leg and block"),
    About("block", "int32", "", "pass over all legs, from 1"),
    About("attempt", "int32", "", "attempt that ran the step, from 0"),
    About("step", "int32", "", "optimizer step, from 0"),
    About("loss", "float64", "nats/token", "raw mean over ranks and micro-steps"),
    About("loss_ema", "float64", "nats/token", "log line's debiased average (0.9)"),
    About("bal", "float64", "", "balance loss summed over layers; top_k x layers is perfect"),
    About("lr_mult", "float64", "", "learning rate over its peak"),
    About("dt_ms", "float64", "ms", "wall time on the slowest rank"),
    About("dt_median_ms", "float64", "ms", "wall time on the median rank"),
    About("slowest_rank", "int32", "", "rank that took longest"),
    *(_phase_column(phase, "ms") for phase in _PHASES),
    *(_phase_column(phase, "median_ms") for phase in _PHASES),
    About("injected_ms", "float64", "ms", "of dt_ms, a delay on purpose (run.inject_pct)"),
    About("tok_per_sec", "float64", "tokens/s", "tokens of the step over dt_ms"),
    About("bf16_mfu_pct", "float64", "%", "model FLOPs over the bf16 peak"),
    About("bf16_mfu_printed_pct", "float64", "%", "as an imported log says it, against the peak that it assumes"),
    About("useful_mfu_pct", "float64", "%", "without dropped assignments"),
    About("compiled_graphs", "int32", "graphs", "compiled by torch.compile in this step"),
    About("epoch", "int32", "", "pass over the data, from 1"),
    About("served_digest", "text", "", "of all tokens served so far: equal steps of a block have equal ones"),
    About("done_utc", "text", "", "end of the step, ISO 8601 in UTC"),
    About("train_time_s", "float64", "s", "sum of dt over steps > 10 so far"),
    About("dropped_pct", "float64", "%", "assignments that found their queue full"),
    About("lost_tokens_pct", "float64", "%", "tokens that lost all experts"),
    About("max_vio", "float64", "", "worst layer's max over mean load, less 1"),
    About("dead_experts", "float64", "experts", "experts under 10 % of the mean load"),
    About("z_loss", "float64", "", "routers' z-loss summed over layers, where in use"),
    About("largest_router_bias", "float64", "", "largest bias of any expert by magnitude, where in use"),
    About("layer_dropped_pct", "float64s", "%", "dropped_pct of each layer with experts, to 4 decimals"),
    About("layer_lost_tokens_pct", "float64s", "%", "lost_tokens_pct of each"),
    About("layer_max_vio", "float64s", "", "max_vio of each"),
    About("layer_dead_experts", "float64s", "experts", "dead_experts of each"),
    About("peak_mib", "float64", "MiB", "peak memory of the fullest rank so far"),
    About("gpu_clock_mhz", "float64", "MHz", "lowest SM clock of all ranks, at 1 Hz"),
    About("gpu_power_w", "float64", "W", "highest power of all ranks, at 1 Hz"),
    About("gpu_temperature_c", "float64", "C", "highest temperature of all ranks, at 1 Hz"),
    About("gpu_throttle_bits", "int64", "", "NVML's clocks event reasons of any rank, at 1 Hz"),
    About("val_bpb", "float64", "bits/byte", "validation loss, if measured here"),
    About("core_metric", "float64", "", "mean centred accuracy of CORE, if measured here"),
    About("counted", "bool", "", "whether the step's time counts"),
    About("flags", "texts", "", "why its time may not count; not_finite: a null was no finite number, or too large"),
    About("experiment", "text", "", "id of the experiment"),
    About("tokens_seen", "int64", "tokens", "trained on up to and with this step"),
    About("lr", "float64", "", "Muon's learning rate of the layers' matrices, before the factor of a matrix's shape"),
    About("grad_norm", "float64", "", "norm of the mean gradient of all parameters; nothing is clipped"),
    About("ended_utc", "utc", "UTC", "when rank 0 had the step's numbers, by its clock"),
]
