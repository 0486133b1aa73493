"""The two CSV files, byte for byte as scripts around training logs know them."""

import csv
import io
import math
from collections.abc import Callable

import pytest

from sweeps.records.experiment import Experiment
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.tables.csv import csv_files, safe_text
from tests.helpers.failing import fail_attempt
from tests.helpers.rows import row

Make = Callable[..., Experiment]
Complete = Callable[..., None]


def lines_of(experiment: Experiment, name: str) -> list[str]:
    return csv_files(read_snapshot(experiment))[name].decode().splitlines()


def test_a_completed_run_has_the_references_digits(make_experiment: Make, complete: Complete) -> None:
    experiment = make_experiment()
    rows = [row(s, bal=24.0, tok_per_sec=24361.4, dt_ms=696.7, bf16_mfu_pct=9.3, loss_ema=10.397762) for s in range(2)]
    complete(experiment, "static-b1", rows)
    headings, static, *_ = lines_of(experiment, "summary.csv")
    assert headings == (
        "run,status,steps_observed,last_step,last_loss,tail50_tok_sec,tail50_bf16_mfu,tail50_dt_ms,peak_mem_mib,"
        "total_time_min,error_line"
    )
    assert static == "static,completed,2,1,10.397762,24361.40,9.3000,696.70,900.00,0.00,"
    assert lines_of(experiment, "steps.csv") == [
        "run,step,loss,bal,dt_ms,tok_sec,bf16_mfu",
        "static,0,10.397762,24.0,696.7,24361,9.3",
        "static,1,10.397762,24.0,696.7,24361,9.3",
    ]


def test_every_state_becomes_one_of_four_words_and_the_unknown_an_empty_cell(make_experiment: Make) -> None:
    experiment = make_experiment()
    fail_attempt(experiment.trial("static_cap1p25-b1"), "Error", "=1+1\ntwo, lines")
    experiment.trial("none_cap1p25-b1").append_rows(0, [row(0, bf16_mfu_pct=None, loss_ema=math.nan)])
    experiment.trial("none_cap1p25-b1").start_attempt(num_workers=2)
    table = list(csv.DictReader(io.StringIO("\n".join(lines_of(experiment, "summary.csv")))))
    by_run = {line["run"]: line for line in table}
    assert {run: line["status"] for run, line in by_run.items()} == {
        "static": "unknown",
        "static_cap1p25": "failed",
        "none_cap1p25": "running",
        "bf16": "unknown",
    }
    assert by_run["static_cap1p25"]["error_line"] == "Error: =1+1 two, lines"
    assert (by_run["none_cap1p25"]["tail50_bf16_mfu"], by_run["none_cap1p25"]["last_loss"]) == ("", "nan")
    assert by_run["static"]["last_step"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_of_text_is_a_formula(text: str) -> None:
    assert safe_text(text) == f"'{text}"
    assert safe_text(f"a{text}") == f"a{text}"
