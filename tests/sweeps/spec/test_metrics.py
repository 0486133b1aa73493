"""One table of metrics that everything reads; an entry that cannot be read from a row would show nothing."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from sweeps.records.rows import StepRow
from sweeps.spec.errors import SweepError
from sweeps.spec.metrics import GATE_METRICS, METRIC, METRICS, PAIR_METRICS, Metric
from sweeps.spec.parts import Gate

DOCS = Path(__file__).parents[3] / "docs" / "parquet.md"


def test_every_metric_has_a_name_of_its_own() -> None:
    assert len(METRIC) == len(METRICS) + len(PAIR_METRICS)
    known = [metric.status_name for metric in METRICS if metric.status_name]
    assert len(set(known)) == len(known)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_reads_a_number_of_the_rows(metric: Metric) -> None:
    assert get_type_hints(StepRow)[metric.read.column] in (float, float | None)
    assert metric.digits >= 0


def test_gates_take_what_the_table_says_and_nothing_else() -> None:
    assert {"tok_per_sec", "dt_ms", "bf16_mfu_pct", "useful_mfu_pct", "peak_mib", "loss", "total_time_min"} <= set(
        GATE_METRICS
    )
    for metric in METRICS:
        if metric.is_gate:
            assert Gate(metric.name, at_most=1.0).metric == metric.name
        else:
            with pytest.raises(SweepError, match="unknown gate metric"):
                Gate(metric.name, at_most=1.0)


def test_what_can_only_be_compared_on_equal_hardware_is_time_and_memory() -> None:
    free = {metric.name for metric in METRICS if not metric.needs_equal_hardware}
    assert free == {"last_loss", "loss", "min_val_bpb", "val_bpb", "dropped_pct", "max_vio"}


def test_a_metric_of_two_trials_takes_no_bound_on_a_value() -> None:
    assert Gate("loss_at_equal_time", at_most=1.005).reference == "baseline"
    with pytest.raises(SweepError, match="compares two legs; leave versus=None out"):
        Gate("loss_at_equal_time", at_most=4.0, versus=None)


def test_the_page_maps_the_names_that_people_know() -> None:
    listed = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \| [\w/]+ \|$", DOCS.read_text(), re.MULTILINE))
    assert {m.status_name: m.name for m in METRICS if m.status_name}.items() <= listed.items()
