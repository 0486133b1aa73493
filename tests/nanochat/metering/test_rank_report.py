"""What a rank tells the others arrives as it was, whatever its parts hold."""

import math

from hypothesis import given
from hypothesis import strategies as st

from nanochat.data.lanes import SERVED_BITS
from nanochat.machine.ranks import Ranks
from nanochat.metering.meter import RankStep
from nanochat.metering.rank_report import RankReport
from nanochat.metering.telemetry import GpuReading
from nanochat.stats import PHASES

numbers = st.floats(allow_nan=False)
readings = st.builds(GpuReading, *[st.none() | st.floats(0, 1e6)] * 3, st.none() | st.integers(0, 2**53))
steps = st.builds(
    RankStep,
    *[numbers] * 7,
    phases_ms=st.lists(numbers, min_size=len(PHASES), max_size=len(PHASES)),
    router=st.lists(numbers, max_size=20),
)
served = st.none() | st.integers(0, 2**SERVED_BITS - 1)
reports = st.builds(RankReport, st.booleans(), st.sampled_from((0.0, 1.0, 2.0)), served, readings, steps)


@given(reports)
def test_a_report_survives_the_way_over_the_wire(report: RankReport):
    assert RankReport.from_floats(report.as_floats()) == report


def test_a_loss_that_is_no_number_arrives_as_none():
    step = RankStep(1.0, math.nan, math.inf, 0.0, 0.0, 0.0, 0.0, [0.0] * len(PHASES), [])
    arrived = RankReport.from_floats(RankReport(False, 0.0, None, GpuReading(), step).as_floats())
    assert math.isnan(arrived.step.loss)
    assert arrived.step.last_loss == math.inf
    assert arrived.gpu == GpuReading()


def test_every_rank_gets_the_reports_of_all_in_rank_order(run_world):
    for gathered in run_world(report_its_rank, 3):
        assert [(report.wants_stop, report.step.dt_ms) for report in gathered] == [(False, 0), (True, 1), (False, 2)]


def report_its_rank(ranks: Ranks) -> list[RankReport]:
    step = RankStep(float(ranks.rank), 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, [0.0] * len(PHASES), [])
    return RankReport(ranks.rank == 1, 0.0, ranks.rank, GpuReading(), step).of_all(ranks)
