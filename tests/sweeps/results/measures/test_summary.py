"""A stored summary says what the rows say, and is not believed where it cannot be theirs."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.records import row_parts
from sweeps.records.experiment import Experiment
from sweeps.records.rows import encode_rows
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.measures.summary import decoded, encoded, summarize
from sweeps.results.report.build import build_report, markdown_files
from sweeps.results.status import status_json
from sweeps.results.tables.build import steps_table
from tests.helpers.rows import row

Make = Callable[..., Experiment]
Complete = Callable[..., None]


@pytest.fixture
def experiment(make_experiment: Make, complete: Complete) -> Experiment:
    """Two completed trials, one with numbers that are none and a torn part; two that have not begun."""
    made = make_experiment()
    made.trial("static-b1").start_attempt(num_workers=2)
    made.trial("static-b1").append_rows(0, [row(s) for s in range(14)])
    torn = Path(made.uri) / "trials" / "static-b1" / "rows" / "a000-p000001.jsonl"
    torn.write_bytes(encode_rows([row(14)])[:-9])
    complete(made, "static-b1", [row(s, attempt=1) for s in range(10, 40)])
    strange = {"gpu_throttle_bits": 8, "layer_max_vio": (1.0, 2.0), "forward_median_ms": 7.0, "served_digest": "ab"}
    rows = [row(s, trial="bf16-b1", loss=math.nan if s == 30 else 3.0, **strange) for s in range(40)]
    complete(made, "bf16-b1", rows)
    return made


def shown(experiment: Experiment) -> list[Any]:
    """Everything that is made of a snapshot, after what it has read by itself."""
    snapshot = read_snapshot(experiment)
    report = markdown_files(build_report([snapshot]), "report.md")
    return [status_json(snapshot), report, steps_table(snapshot).to_pydict(), snapshot.torn_files]


def test_with_summaries_everything_is_the_same_and_no_row_is_read(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shown(experiment)
    read_snapshot(experiment, keep=True)
    monkeypatch.setattr(row_parts, "decode_steps", None)
    assert shown(experiment) == before
    assert all(trial.kept for trial in read_snapshot(experiment).trials if trial.state == "completed")


def test_a_trial_that_has_not_ended_has_no_summary(experiment: Experiment) -> None:
    running = experiment.trial("none_cap1p25-b1")
    running.start_attempt(num_workers=2)
    running.append_rows(0, [row(0, trial="none_cap1p25-b1")])
    read_snapshot(experiment, keep=True)
    assert sorted(os.listdir(Path(experiment.uri) / "summaries")) == [
        f"{name}-b1.{kind}" for name in ("bf16", "static") for kind in ("arrow", "json")
    ]


def test_rows_that_change_make_the_summary_void(experiment: Experiment) -> None:
    read_snapshot(experiment, keep=True)
    (part,) = (Path(experiment.uri) / "trials" / "bf16-b1" / "rows").iterdir()
    part.write_bytes(encode_rows([row(s, trial="bf16-b1", loss_ema=1.0) for s in range(3)]))
    bf16 = read_snapshot(experiment).trials[-1]
    assert (bf16.kept, bf16.measures.steps_observed, bf16.measures["last_loss"]) == (None, 3, 1.0)


@pytest.mark.parametrize("kind", ["json", "arrow"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 100, b"cut"])
def test_a_damaged_copy_is_as_good_as_none(experiment: Experiment, kind: str, damage: bytes) -> None:
    before = shown(experiment)
    read_snapshot(experiment, keep=True)
    file = Path(experiment.uri) / "summaries" / f"static-b1.{kind}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if damage == b"cut" else damage)
    assert shown(experiment) == before


def test_a_link_in_its_place_is_not_followed(experiment: Experiment, tmp_path: Path) -> None:
    read_snapshot(experiment, keep=True)
    file = Path(experiment.uri) / "summaries" / "static-b1.json"
    (tmp_path / "elsewhere").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert read_snapshot(experiment).trials[0].kept is None


@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_what_is_no_folder_in_the_place_of_the_summaries_costs_nothing_but_time(
    experiment: Experiment, tmp_path: Path, kind: str
) -> None:
    before = shown(experiment)
    place, elsewhere = Path(experiment.uri, "summaries"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_text("") if kind == "file" else os.mkfifo(place)
    kept = read_snapshot(experiment, keep=True)
    assert kept.trials[0].state == "completed"
    assert shown(experiment) == before
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": -1},
        {"num_steps": 2**30},
        {"num_steps": True},
        {"of_metric": {}},
        {"of_metric": {"loss": "much"}},
        {"uncounted": [[0, 99]]},
        {"uncounted": [[0]]},
        {"spans": [[1, 2]]},
        {"phases_ms": None},
        {"layers": {"layer_max_vio": ["x"]}},
        {"torn": "all"},
        {"diverged": 3},
        {"slowed": {}},
    ],
)
def test_a_summary_that_this_version_does_not_write_is_none(change: dict[str, Any]) -> None:
    summary = summarize(row_parts.Steps.of([row(s) for s in range(40)]), 10, is_over=True)
    values = json.loads(encoded(summary, "key"))
    assert decoded(json.dumps(values).encode(), "key") == summary
    assert decoded(json.dumps(values | change).encode(), "key") is None
    assert decoded(json.dumps(values).encode(), "another key") is None


@pytest.mark.parametrize("field", ["of_metric", "phases_ms", "layers"])
@pytest.mark.parametrize("value", [[1.0], {"a": 1}, True, 10**400, -(10**400), "much", [[1.0]], [None]], ids=str)
def test_a_number_of_another_kind_makes_the_whole_summary_none(field: str, value: Any) -> None:
    values = json.loads(encoded(summarize(row_parts.Steps.of([row(s) for s in range(40)]), 10, is_over=True), "key"))
    for name in values[field]:
        if (field, value) == ("layers", [1.0]):
            continue  # a layer's numbers are a list
        changed = json.dumps(values | {field: values[field] | {name: value}})
        assert decoded(changed.encode(), "key") is None


def test_numbers_that_are_none_survive_the_file(same_number: Callable[[Any, Any], bool]) -> None:
    rows = [row(s, loss=math.nan, dt_ms=math.inf, layer_max_vio=(math.inf, 1.0)) for s in range(40)]
    summary = summarize(row_parts.Steps.of(rows), 10, is_over=True)
    again = decoded(encoded(summary, ""), "")
    assert again is not None
    assert all(same_number(again.of_metric[name], value) for name, value in summary.of_metric.items())
    assert dataclasses.replace(again, of_metric={}) == dataclasses.replace(summary, of_metric={})
