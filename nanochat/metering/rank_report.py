"""What every rank tells the others after a step, in the one exchange of plain numbers that each step has.

It packs and unpacks itself, each part taking the numbers that are its own, so a part may grow without the others
knowing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nanochat.machine.ranks import Ranks
from nanochat.metering.meter import RankStep
from nanochat.metering.telemetry import GpuReading


@dataclass(frozen=True)
class RankReport:
    """One rank after one step."""

    wants_stop: bool
    save_status: float  # of the checkpoint that is being written: `saving.is_over` reads those of all ranks
    gpu: GpuReading
    step: RankStep

    def as_floats(self) -> list[float]:
        """Flat, for a collective; `from_floats` is the inverse."""
        return [float(self.wants_stop), self.save_status, *self.gpu.as_floats(), *self.step.as_floats()]

    @staticmethod
    def from_floats(values: Iterable[float]) -> "RankReport":
        """The inverse of `as_floats`."""
        rest = iter(values)
        return RankReport(next(rest) > 0, next(rest), GpuReading.from_floats(rest), RankStep.from_floats(rest))

    def of_all(self, ranks: Ranks) -> list["RankReport"]:
        """Collective. Every rank's report, in rank order, equal on all ranks."""
        return [RankReport.from_floats(floats) for floats in ranks.all_gather_floats(self.as_floats())]
