"""A step whose time is not a steady step's says why."""

from nanochat.step_flags import QUIET_STEPS_AFTER_RECOMPILE, WARMUP_STEPS, Flags


def _run(flags: Flags, steps: range, graphs: int = 0) -> list[tuple[str, ...]]:
    seen = []
    for step in steps:
        seen.append(flags.of_step(step, graphs, skipped=False))
        flags.after(evaluated=False, sampled=False, graphs=graphs)
    return seen


def test_the_first_steps_of_every_start_are_warm_up():
    fresh = _run(Flags(0, num_graphs=0), range(WARMUP_STEPS + 2))
    assert fresh == [("warmup",)] * WARMUP_STEPS + [(), ()]
    continued = _run(Flags(100, num_graphs=0), range(100, 100 + WARMUP_STEPS + 1))
    assert continued == [("resumed", "warmup")] + [("warmup",)] * (WARMUP_STEPS - 1) + [()]


def test_the_step_after_an_evaluation_a_sample_or_a_checkpoint_is_marked_and_no_other():
    flags = Flags(0, num_graphs=0)
    _run(flags, range(30))
    flags.after(evaluated=True, sampled=True, graphs=0)
    flags.saving()
    assert flags.of_step(30, 0, skipped=False) == ("checkpoint", "eval", "sample")
    assert flags.of_step(31, 0, skipped=False) == ()


def test_a_recompilation_marks_its_step_and_the_next_five():
    flags = Flags(0, num_graphs=0)
    _run(flags, range(30), graphs=3)
    assert _run(flags, range(30, 38), graphs=4) == [("recompile",)] * (1 + QUIET_STEPS_AFTER_RECOMPILE) + [(), ()]


def test_graphs_of_an_earlier_run_in_the_process_are_no_recompilation():
    assert _run(Flags(0, num_graphs=3), range(2), graphs=3) == [("warmup",)] * 2


def test_graphs_compiled_by_an_evaluation_are_no_recompilation_of_the_step():
    flags = Flags(0, num_graphs=0)
    _run(flags, range(30), graphs=3)
    flags.after(evaluated=True, sampled=False, graphs=6)
    assert flags.of_step(30, 6, skipped=False) == ("eval",)


def test_a_slow_down_by_heat_or_hardware_is_marked_and_a_power_cap_is_not():
    flags = Flags(0, num_graphs=0)
    _run(flags, range(30))
    for bits, wanted in ((None, ()), (0, ()), (4, ()), (4 | 32, ("throttled",)), (8, ("throttled",)), (4, ())):
        assert flags.of_step(30, 0, skipped=False, throttle_bits=bits) == wanted


def test_a_skipped_update_is_marked():
    flags = Flags(0, num_graphs=0)
    _run(flags, range(30))
    assert flags.of_step(30, 0, skipped=True) == ("skipped",)
    assert flags.of_step(31, 0, skipped=False) == ()
