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
    served: int | None  # digest of the tokens that its lanes have served; a float holds it without loss
    gpu: GpuReading
    step: RankStep

    def as_floats(self) -> list[float]:
        """Flat, for a collective; `from_floats` is the inverse."""
        served = -1.0 if self.served is None else float(self.served)
        return [float(self.wants_stop), self.save_status, served, *self.gpu.as_floats(), *self.step.as_floats()]

    @staticmethod
    def from_floats(values: Iterable[float]) -> "RankReport":
        """The inverse of `as_floats`."""
        rest = iter(values)
        wants_stop, save_status, served = next(rest) > 0, next(rest), next(rest)
        known = int(served) if served >= 0 else None
        return RankReport(wants_stop, save_status, known, GpuReading.from_floats(rest), RankStep.from_floats(rest))

    def of_all(self, ranks: Ranks) -> list["RankReport"]:
        """Collective. Every rank's report, in rank order, equal on all ranks."""
        return [RankReport.from_floats(floats) for floats in ranks.all_gather_floats(self.as_floats())]
