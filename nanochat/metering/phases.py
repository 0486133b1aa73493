"""Where the time of an optimizer step goes, read off the device's own clock.

Marks are set along the step; the time between two of them belongs to the phase that the second one names, so that the
phases of a step never overlap and their sum is at most its dt. On a GPU a mark is an event on the stream, read when the
step has ended anyway: nothing is waited for. What is measured there is therefore not what the host did but what the
GPU had: `data` is how long it had nothing to compute before a micro-step, because the batch was not there yet, and
`communication` how long it waited for other ranks next to what ran along with its own work.

A micro-step can be one replayed CUDA graph, of which only the last replay's inner times are known. So the time of all
micro-steps is split into forward and backward as the last micro-step's is, whose backward also carries the overlapped
part of the reduction.
"""

import time
from itertools import pairwise

import torch

from nanochat.stats import STEP_PHASES

_MICRO_STEP = "micro_step"

_Instant = float | torch.cuda.Event


class PhaseClock:
    """Marks of one step after the other. A phase is one of STEP_PHASES; forward and backward are marked as one."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []  # serve again in each step
        self._marks: list[tuple[str, _Instant]] = []
        # An external event is recorded by each replay of the graph that it was recorded into.
        self._forward_end: _Instant = torch.cuda.Event(enable_timing=True, external=True) if self._is_cuda else 0.0

    def start(self) -> None:
        """Begins a step, and forgets the one before."""
        self._marks.clear()
        self.mark("start")

    def mark(self, phase: str) -> None:
        """All time since the mark before was spent in `phase`."""
        if not self._is_cuda:
            self._marks.append((phase, time.perf_counter()))
            return
        place = len(self._marks)
        if place == len(self._events):
            self._events.append(torch.cuda.Event(enable_timing=True))
        self._events[place].record()
        self._marks.append((phase, self._events[place]))

    def mark_forward_end(self) -> None:
        """Within a micro-step, which may be being recorded; nowhere else."""
        if isinstance(self._forward_end, torch.cuda.Event):
            self._forward_end.record()
        else:
            self._forward_end = time.perf_counter()

    def mark_micro_step(self) -> None:
        """All time since the mark before was spent in forward and backward."""
        self.mark(_MICRO_STEP)

    def read_ms(self) -> list[float]:
        """The milliseconds of each of STEP_PHASES. The device must be done with the step."""
        spent: dict[str, float] = dict.fromkeys((*STEP_PHASES, _MICRO_STEP), 0.0)
        forward_share = 0.0
        for (_, before), (phase, now) in pairwise(self._marks):
            interval_ms = _ms(before, now)
            spent[phase] += interval_ms
            if phase == _MICRO_STEP and interval_ms > 0:
                forward_share = min(1.0, max(0.0, _ms(before, self._forward_end) / interval_ms))
        spent["forward"] = spent[_MICRO_STEP] * forward_share
        spent["backward"] = spent[_MICRO_STEP] - spent["forward"]
        return [spent[phase] for phase in STEP_PHASES]


def _ms(start: _Instant, end: _Instant) -> float:
    if isinstance(start, torch.cuda.Event) or isinstance(end, torch.cuda.Event):
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        return start.elapsed_time(end)
    return (end - start) * 1e3
