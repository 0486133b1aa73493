"""Why the time of a step may not count, known from what happened in and before it.

The trainer only marks; which marks exclude a step from which statistic is decided where results are read.
"""

from nanochat import throttle
from nanochat.stats import WARMUP_STEPS

QUIET_STEPS_AFTER_RECOMPILE = 5
_LEAST_WAIT_MS, _LEAST_WAIT_OF_STEP = 1.0, 0.005  # what a step's record costs by itself is less


class Flags:
    """Why a step's time may not count, known from what happened in and before it."""

    def __init__(self, first_step: int) -> None:
        self._first_step = first_step
        self._recompiled_at = -1
        self._carried: set[str] = {"resumed"} if first_step else set()

    def of_step(
        self, step: int, compiled_graphs: int, skipped: bool, fell_back: bool = False, throttle_bits: int | None = None
    ) -> tuple[str, ...]:
        """The step's flags, sorted. `compiled_graphs` were compiled in the step, on the rank that compiled most.

        `fell_back`: the run should be compiled and is not; its times say nothing about the leg. `throttle_bits` are
        those of any rank's GPU.
        """
        flags = set(self._carried)
        if step - self._first_step < WARMUP_STEPS:
            flags.add("warmup")
        if compiled_graphs:
            self._recompiled_at = step
        if self._recompiled_at >= 0 and step - self._recompiled_at <= QUIET_STEPS_AFTER_RECOMPILE:
            flags.add("recompile")
        if skipped:
            flags.add("skipped")
        if fell_back:
            flags.add("fallback")
        if throttle.slowdown(throttle_bits):
            flags.add(throttle.FLAG)
        self._carried.clear()
        return tuple(sorted(flags))

    def after(self, evaluated: bool, sampled: bool) -> None:
        """What happened between this step and the next."""
        if evaluated:
            self._carried.add("eval")
        if sampled:
            self._carried.add("sample")

    def told(self, wait_ms: float, dt_ms: float) -> None:
        """For how long the first rank's training thread waited for the step's record to be taken.

        The other ranks wait for it in the next step, so a long wait is in that step's time.
        """
        if wait_ms > max(_LEAST_WAIT_MS, _LEAST_WAIT_OF_STEP * dt_ms):
            self._carried.add("storage")

    def saving(self) -> None:
        """A checkpoint was begun after this step, or is still being written during the next one."""
        self._carried.add("checkpoint")
