"""A leg that another experiment has run says so wherever its numbers are shown."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sweeps.records.continuation import copy
from sweeps.records.experiment import Experiment
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.report.build import write_report
from sweeps.results.status import status_json
from sweeps.results.tables.parquet import export_experiment

Make = Callable[..., Experiment]


@pytest.fixture
def continued(make_experiment: Make, complete: Callable[..., None]) -> Experiment:
    source, target = make_experiment(id="old"), make_experiment(id="new")
    complete(source, "static-b1")
    copy(source, target, ("static-b1",))
    complete(target, "static_cap1p25-b1")
    return target


def test_status_names_the_experiment_that_ran_it(continued: Experiment) -> None:
    origins = {t["name"]: t["origin"] for t in status_json(read_snapshot(continued))["trials"]}
    assert origins == {"static": "old", "static_cap1p25": None, "none_cap1p25": None, "bf16": None}


def test_the_legs_table_names_it_too(continued: Experiment) -> None:
    legs = pq.read_table(export_experiment(continued)[0])
    origins = dict(zip(legs["leg"].to_pylist(), legs["origin"].to_pylist(), strict=True))
    assert origins == {"static": "old", "static_cap1p25": None, "none_cap1p25": None, "bf16": None}
    assert set(legs["experiment"].to_pylist()) == {"new"}


def test_the_report_says_where_it_was_measured_with_the_numbers_provenance(continued: Experiment) -> None:
    provenance = Path(write_report(continued)[0]).read_text().split("## Provenance")[1].split("## ")[0]
    line = "`static` was taken over from experiment `old`, which ran it with the same config at commit `c0ffee`"
    assert line in provenance
    assert "`static_cap1p25` was" not in provenance
