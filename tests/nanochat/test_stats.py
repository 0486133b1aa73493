"""Each field of a step is either computed, and then repeatable, or measured."""

from dataclasses import fields

from nanochat.stats import REPEATABLE, StepStats

PHASES = ("data", "forward", "backward", "optimizer", "communication", "checkpoint")
MEASURED = {
    *("dt_ms", "dt_median_ms", "slowest_rank", "tok_per_sec", "bf16_mfu_pct", "useful_mfu_pct", "train_time_s"),
    *(f"{phase}_ms" for phase in PHASES),
    *(f"{phase}_median_ms" for phase in PHASES),
    *("peak_mib", "gpu_clock_mhz", "gpu_power_w", "gpu_temperature_c", "gpu_throttle_bits", "compiled_graphs", "flags"),
    *("ended_unix_s", "injected_ms"),
}


def test_a_new_field_is_put_among_the_repeatable_or_the_measured_ones():
    assert {field.name for field in fields(StepStats)} == REPEATABLE | MEASURED
    assert not REPEATABLE & MEASURED
