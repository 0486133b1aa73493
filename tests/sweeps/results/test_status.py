"""`status --json` as scripts rely on it, while an experiment runs."""

import json
import math
from collections.abc import Callable

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.records.store import Store
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.status import number, run_table, status_json

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]


def test_the_document_has_the_agreed_keys_and_names(make_experiment: Make, complete: Complete) -> None:
    experiment = make_experiment()
    complete(experiment, "static-b1")
    document = status_json(read_snapshot(experiment))
    assert list(document) == ["schema", "experiment", "path", "state", "next_command", "trials"]
    assert document["schema"] == "nanochat-sweep/status/1"
    assert (document["experiment"], document["state"]) == ("20260101_120000_toy", "interrupted")
    done, waiting, *_ = document["trials"]
    expected = {
        "name": "static",
        "leg": "static",
        "block": 1,
        "status": "completed",
        "attempts": 1,
        "steps_observed": 40,
        "last_step": 39,
        "last_loss": 10.0 - 39 * 0.1,
        "tail50_tok_sec": 5120.0,
        "tail50_bf16_mfu": 5.0,
        "tail50_dt_ms": 100.0,
        "peak_mem_mib": 900.0,
        "total_time_min": 2.9000000000000004 / 60,
        "origin": None,
        "fell_back": False,
        "diverged": None,
        "damage": None,
        "failure": None,
        "error": None,
        "next_command": None,
        "num_steps": 40,
        "tok_per_sec": pytest.approx(5120.0),
        "last_step_tok_sec": 5120.0,
        "last_step_dt_ms": 100.0,
    }
    assert {key: done[key] for key in expected} == expected
    assert waiting["status"] == "pending"
    assert {k for k, v in waiting.items() if v is None} == {
        "error",
        "log",
        "next_command",
        "loss",
        "tok_per_sec",
        "num_steps",
        "last_step_utc",
        "last_step_dt_ms",
        "last_step_tok_sec",
        "last_step",
        "last_loss",
        "tail50_tok_sec",
        "tail50_bf16_mfu",
        "tail50_dt_ms",
        "peak_mem_mib",
        "total_time_min",
        "origin",
        "diverged",
        "damage",
        "failure",
        "host",
        "node_id",
    }


def test_trials_of_several_blocks_go_by_their_own_names(make_experiment: Make) -> None:
    names = {t["name"] for t in status_json(read_snapshot(make_experiment(num_blocks=2)))["trials"]}
    assert {"static-b1", "static-b2"} <= names


def test_a_nan_is_null_in_json_and_nan_for_people(make_experiment: Make, make_row: MakeRow) -> None:
    experiment = make_experiment()
    experiment.trial("static-b1").append_rows(0, [make_row(0, loss_ema=math.nan)])
    snapshot = read_snapshot(experiment)
    assert status_json(snapshot)["trials"][0]["last_loss"] is None
    json.dumps(status_json(snapshot), allow_nan=False)
    assert run_table(snapshot)[1][4] == "nan"


def test_numbers_have_fixed_digits_and_the_unknown_is_a_dash() -> None:
    assert (number(None, 2), number(1.0, 2), number(468783.4, 0), number(-0.001, 2)) == ("-", "1.00", "468783", "0.00")


def test_of_a_hundred_trials_of_300_steps_each_file_of_rows_is_read_once(
    make_experiment: Make, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(num_blocks=25)
    for trial in experiment.trials():
        trial.append_rows(0, [make_row(s, trial=trial.name) for s in range(300)])
    read, reads = Store.read, list[str]()
    monkeypatch.setattr(Store, "read", lambda store, rel: (reads.append(rel), read(store, rel))[1])
    document = status_json(read_snapshot(Experiment.open(experiment.uri)))
    assert [t["steps_observed"] for t in document["trials"]] == [300] * 100
    of_rows = [rel for rel in reads if "/rows/" in rel]
    assert len(of_rows) == len(set(of_rows)) == 100
