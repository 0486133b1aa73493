"""A step whose time is not a steady step's says why."""

from nanochat.metering.step_flags import QUIET_STEPS_AFTER_RECOMPILE, Flags
from nanochat.stats import WARMUP_STEPS


def _run(flags: Flags, steps: range, compiled_in: int = -1) -> list[tuple[str, ...]]:
    seen = []
    for step in steps:
        seen.append(flags.of_step(step, int(step == compiled_in), skipped=False))
        flags.after(evaluated=False, sampled=False)
    return seen


def test_the_first_steps_of_every_start_are_warm_up():
    fresh = _run(Flags(0), range(WARMUP_STEPS + 2))
    assert fresh == [("warmup",)] * WARMUP_STEPS + [(), ()]
    continued = _run(Flags(100), range(100, 100 + WARMUP_STEPS + 1))
    assert continued == [("resumed", "warmup")] + [("warmup",)] * (WARMUP_STEPS - 1) + [()]


def test_the_step_after_an_evaluation_a_sample_or_a_checkpoint_is_marked_and_no_other():
    flags = Flags(0)
    _run(flags, range(30))
    flags.after(evaluated=True, sampled=True)
    flags.saving()
    assert flags.of_step(30, 0, skipped=False) == ("checkpoint", "eval", "sample")
    assert flags.of_step(31, 0, skipped=False) == ()


def test_the_step_after_a_wait_for_storage_is_marked_and_none_after_a_usual_record():
    flags = Flags(0)
    _run(flags, range(30))
    for step, (wait_ms, dt_ms, marks) in enumerate(
        [(0.9, 10.0, ()), (1.1, 10.0, ("storage",)), (1.1, 300.0, ()), (30.0, 300.0, ("storage",)), (0.0, 10.0, ())]
    ):
        flags.told(wait_ms, dt_ms)
        assert flags.of_step(30 + step, 0, skipped=False) == marks


def test_a_recompilation_marks_its_step_and_the_next_five():
    flags = Flags(0)
    _run(flags, range(30), compiled_in=0)
    marked = _run(flags, range(30, 38), compiled_in=30)
    assert marked == [("recompile",)] * (1 + QUIET_STEPS_AFTER_RECOMPILE) + [(), ()]


def test_steps_that_should_be_compiled_and_are_not_are_marked_all_of_them():
    flags = Flags(0)
    _run(flags, range(30))
    assert flags.of_step(30, 0, skipped=False, fell_back=True) == ("fallback",)
    assert flags.of_step(31, 0, skipped=False, fell_back=True) == ("fallback",)


def test_a_slow_down_by_heat_or_hardware_is_marked_and_a_power_cap_is_not():
    flags = Flags(0)
    _run(flags, range(30))
    for bits, wanted in ((None, ()), (0, ()), (4, ()), (4 | 32, ("throttled",)), (8, ("throttled",)), (4, ())):
        assert flags.of_step(30, 0, skipped=False, throttle_bits=bits) == wanted


def test_a_skipped_update_is_marked():
    flags = Flags(0)
    _run(flags, range(30))
    assert flags.of_step(30, 0, skipped=True) == ("skipped",)
    assert flags.of_step(31, 0, skipped=False) == ()
