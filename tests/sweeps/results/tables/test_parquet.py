"""The exported tables as any reader opens them."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.config import field_paths
from nanochat.metering.step_flags import Flags
from nanochat.throttle import REASONS, slowdown
from sweeps.records.documents import AttemptError
from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.tables.build import step_groups
from sweeps.results.tables.column import NOT_FINITE
from sweeps.results.tables.events import EVENT_COLUMNS, EVENTS
from sweeps.results.tables.legs import LEG_COLUMNS
from sweeps.results.tables.parquet import FILES, export_experiment
from sweeps.results.tables.steps import STEP_COLUMNS
from sweeps.results.tables.verdicts import VERDICT_COLUMNS
from tests.helpers.rows import row

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]
DOCS = Path(__file__).parents[4] / "docs" / "parquet.md"


@pytest.fixture
def experiment(make_experiment: Make, complete: Complete, make_row: MakeRow) -> Experiment:
    """static is completed after an interruption at step 13, static_cap1p25 failed, none_cap1p25 runs, bf16 waits."""
    made = make_experiment()
    made.trial("static-b1").start_attempt(num_workers=2)
    made.trial("static-b1").append_rows(0, [make_row(s) for s in range(14)])
    complete(made, "static-b1", [make_row(s, attempt=1) for s in range(10, 40)])
    failed = made.trial("static_cap1p25-b1")
    attempt = failed.start_attempt(num_workers=2)
    failed.append_rows(0, [make_row(0, trial="static_cap1p25-b1", loss=math.nan, max_vio=math.inf)])
    error = AttemptError(type="InductorError", message="no | kernel", traceback="")
    failed.update_attempt(dataclasses.replace(attempt, end="failed", error=error, ended_utc="2026-01-01T00:01:00Z"))
    running = made.trial("none_cap1p25-b1")
    running.start_attempt(num_workers=2)
    running.append_rows(0, [make_row(s, trial="none_cap1p25-b1") for s in range(3)])
    made.lock()
    return made


def exported(experiment: Experiment) -> tuple[pa.Table, pa.Table]:
    legs, steps, *_ = export_experiment(experiment)
    return pq.read_table(legs), pq.read_table(steps)


def of_leg(table: pa.Table, leg: str) -> list[dict[str, Any]]:
    """The rows of one leg."""
    return [row for row in table.to_pylist() if row["leg"] == leg]


def test_there_is_one_row_per_trial_sorted_with_its_state(experiment: Experiment) -> None:
    legs, _ = exported(experiment)
    assert legs["trial"].to_pylist() == ["bf16-b1", "none_cap1p25-b1", "static-b1", "static_cap1p25-b1"]
    assert legs["status"].to_pylist() == ["pending", "running", "completed", "failed"]
    assert legs["role"].to_pylist() == ["control", "grid", "baseline", "candidate"]
    assert legs["attempts"].to_pylist() == [0, 1, 2, 1]
    assert legs["steps_observed"].to_pylist() == [0, 3, 40, 1]
    assert legs["error_message"].to_pylist() == [None, None, None, "no | kernel"]


def test_each_step_is_there_once_from_the_latest_attempt(experiment: Experiment) -> None:
    _, steps = exported(experiment)
    keys = list(zip(steps["trial"].to_pylist(), steps["step"].to_pylist(), strict=True))
    assert keys == sorted(set(keys))
    static = of_leg(steps, "static")
    assert [step["attempt"] for step in static] == [0] * 10 + [1] * 30
    assert [step["counted"] for step in static] == [False] * 20 + [True] * 20


def test_a_number_in_a_list_that_is_none_becomes_null_with_a_flag(make_experiment: Make, make_row: MakeRow) -> None:
    experiment = make_experiment()
    rows = [make_row(20, layer_max_vio=(0.5, math.nan)), make_row(21, layer_max_vio=(0.5, 1.5))]
    experiment.trial("static-b1").append_rows(0, rows)
    _, steps = exported(experiment)
    assert steps["layer_max_vio"].to_pylist() == [[0.5, None], [0.5, 1.5]]
    assert steps["flags"].to_pylist() == [["not_finite"], []]


def test_a_number_that_is_none_becomes_null_with_a_flag(experiment: Experiment) -> None:
    _, steps = exported(experiment)
    bad = of_leg(steps, "static_cap1p25")[0]
    assert (bad["loss"], bad["max_vio"]) == (None, None)
    assert bad["flags"] == ["warmup", "not_finite"]
    good = of_leg(steps, "static")[0]
    assert (good["loss"], good["flags"]) == (10.0, ["warmup"])
    for name in steps.schema.names:
        if pa.types.is_floating(steps.schema.field(name).type):
            assert not any(math.isnan(value) for value in steps[name].to_pylist() if value is not None)


def test_every_field_of_the_config_has_a_typed_column(experiment: Experiment) -> None:
    legs, _ = exported(experiment)
    assert {n for n in legs.schema.names if n.startswith("p_")} == {f"p_{p.replace('.', '_')}" for p in field_paths()}
    assert legs["p_moe_capacity_factor"].to_pylist() == [None, 1.25, None, 1.25]
    assert legs.schema.field("p_moe_capacity_factor").type == pa.float64()
    assert legs["p_compile_mode"].to_pylist() == ["static", "none", "static", "static"]
    assert json.loads(legs["config_json"].to_pylist()[2])["schedule"]["num_steps"] == 40


def test_every_field_carries_its_unit_and_the_file_its_origin(experiment: Experiment) -> None:
    for table, columns, schema in zip(
        exported(experiment),
        (LEG_COLUMNS, STEP_COLUMNS),
        (b"nanochat-sweep/legs/1", b"nanochat-sweep/steps/1"),
        strict=True,
    ):
        for column in columns:
            about = table.schema.field(column.name).metadata
            assert about[b"unit"].decode() == column.unit
            assert about[b"meaning"].decode() == column.meaning
        origin = table.schema.metadata
        assert origin[b"schema"] == schema
        assert origin[b"git_commit"] == b"c0ffee"
        assert origin[b"experiment_sha256"].decode() == experiment.manifest.plan_digest
        assert origin[b"tool_version"]


def test_names_that_end_in_a_unit_say_the_same_as_their_unit() -> None:
    suffixes = {
        "_ms": "ms",
        "_s": "s",
        "_mib": "MiB",
        "_pct": "%",
        "_min": "min",
        "_per_sec": "tokens/s",
        "_tokens": "tokens",
        "_mhz": "MHz",
        "_w": "W",
        "_c": "C",
    }
    for column in (*LEG_COLUMNS, *STEP_COLUMNS, *EVENT_COLUMNS, *VERDICT_COLUMNS):
        for suffix, unit in suffixes.items():
            if column.name.endswith(suffix):
                assert column.unit == unit, column.name


def test_the_files_are_zstd_with_dictionaries_and_utc_microseconds(experiment: Experiment) -> None:
    legs, steps, *_ = export_experiment(experiment)
    assert pq.ParquetFile(steps).metadata.row_group(0).column(0).compression == "ZSTD"
    schema = pq.read_schema(legs)
    assert schema.field("leg").type == pa.dictionary(pa.int32(), pa.string())
    assert schema.field("started_utc").type == pa.timestamp("us", tz="UTC")
    assert schema.field("block").type == pa.int32()


def test_the_same_experiment_gives_the_same_bytes(experiment: Experiment, tmp_path: Path) -> None:
    first = [Path(f).read_bytes() for f in export_experiment(experiment)]
    second = [Path(f).read_bytes() for f in export_experiment(experiment, str(tmp_path / "out"))]
    assert first == second


def test_an_experiment_that_has_not_begun_exports_empty_steps_with_all_columns(make_experiment: Make) -> None:
    legs, steps = exported(make_experiment())
    assert (legs.num_rows, steps.num_rows) == (4, 0)
    assert steps.schema.names == [c.name for c in STEP_COLUMNS]


def test_the_document_lists_every_column_with_type_unit_and_meaning() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \| (\S+) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    columns = (*LEG_COLUMNS, *STEP_COLUMNS, *EVENT_COLUMNS, *VERDICT_COLUMNS)
    wanted = [(c.name, c.kind, c.unit or "-", c.meaning) for c in columns]
    assert listed == wanted


EXAMPLES = {
    "pyarrow": "b'ms'\n",
    "duckdb": "[('static', 1, 100.0, 20)]\n",
    "polars": "[('static', 1, 100.0, 20)]\n",
    "pandas": "[{'p_moe_capacity_factor': nan, 'p_compile_mode': 'static', 'dt_ms': 100.00000000000004}]\n",
}


@pytest.mark.parametrize("library", EXAMPLES)
def test_an_example_of_the_document_runs(
    library: str, experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(Path(export_experiment(experiment)[0]).parent)
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (example,) = [text for text in examples if text.startswith(f"import {library}")]
    exec(example, {})
    assert capsys.readouterr().out == EXAMPLES[library]


def test_the_document_names_the_throttle_bits() -> None:
    listed = re.findall(r"^\| (\d+) \| ([\w ]+) \| ?(\w*)", DOCS.read_text(), re.MULTILINE)
    assert [(int(bit), name, wanted == "yes") for bit, name, wanted in listed] == [
        (bit, name, slowdown(bit) > 0) for bit, name in REASONS.items()
    ]


def test_a_layers_numbers_are_a_list_and_what_is_not_known_is_null(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    known = {"layer_max_vio": (0.5, 1.5), "gpu_clock_mhz": 1980.0, "gpu_throttle_bits": 4}
    complete(experiment, "static-b1", [make_row(0, **known), make_row(1)])
    first, second = exported(experiment)[1].to_pylist()
    assert {name: first[name] for name in known} == {**known, "layer_max_vio": [0.5, 1.5]}
    assert {name: second[name] for name in known} == dict.fromkeys(known)


def test_kernels_and_compile_cache_are_told_of_each_attempt(experiment: Experiment) -> None:
    record = experiment.trial("static-b1")
    first, second = record.attempts()
    cold = {"compile_cache": "cold", "backends": {"attention": "sdpa"}}
    record.update_attempt(dataclasses.replace(first, facts=cold))
    record.update_attempt(dataclasses.replace(second, facts={**cold, "compile_cache": "warm"}))
    by_trial = {leg["trial"]: leg for leg in exported(experiment)[0].to_pylist()}
    static = by_trial["static-b1"]
    assert (static["compile_cache"], static["attempt_compile_caches"]) == ("warm", ["cold", "warm"])
    assert [json.loads(text) for text in static["attempt_backends_json"]] == [{"attention": "sdpa"}] * 2
    assert by_trial["static_cap1p25-b1"]["attempt_compile_caches"] == [None], "it ended before its first step"
    assert by_trial["bf16-b1"]["attempt_compile_caches"] == []


def test_repeated_blocks_make_one_row_each(make_experiment: Make, complete: Complete) -> None:
    experiment = make_experiment(num_blocks=2)
    for block in (1, 2):
        complete(experiment, f"static-b{block}")
    legs, _ = exported(experiment)
    assert [(trial["block"], trial["seed"]) for trial in of_leg(legs, "static")] == [(1, 43), (2, 44)]


def test_the_page_explains_every_flag_and_no_other() -> None:
    flags = Flags(first_step=5)
    given = {*flags.of_step(5, compiled_graphs=1, skipped=True, fell_back=True, throttle_bits=32)}
    flags.after(evaluated=True, sampled=True)
    flags.told(wait_ms=50.0, dt_ms=100.0)
    flags.saving()
    given |= {*flags.of_step(6, compiled_graphs=0, skipped=False)}
    table = DOCS.read_text().split("| flag | the step |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == sorted({*given, NOT_FINITE})


def test_the_page_explains_every_event_and_no_other() -> None:
    table = DOCS.read_text().split("| event | meaning |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(EVENTS)


def test_an_axis_has_its_column_even_if_all_its_values_are_equal_here(make_experiment: Make) -> None:
    legs, _ = exported(make_experiment())
    assert legs["p_moe_capacity_factor"].to_pylist() == [None, 1.25, None, 1.25]
    assert legs.schema.field("p_moe_capacity_factor").type == pa.float64()
    assert legs.schema.field("p_run_seed").type == pa.int64()
    assert legs.schema.field("p_run_final_checkpoint").type == pa.bool_()


def test_blocks_are_sorted_as_numbers_and_the_files_say_so(make_experiment: Make) -> None:
    experiment = make_experiment(num_blocks=8)
    for block in (8, 2, 7):
        experiment.trial(f"static-b{block}").append_rows(0, [row(s, trial=f"static-b{block}") for s in range(2)])
    legs, steps, *_ = export_experiment(experiment)
    assert [(s["block"], s["step"]) for s in pq.read_table(steps).to_pylist()] == [
        (block, step) for block in (2, 7, 8) for step in (0, 1)
    ]
    for file, order in ((legs, ("leg", "block")), (steps, ("leg", "block", "step"))):
        schema = pq.ParquetFile(file).schema_arrow
        sorting = pq.ParquetFile(file).metadata.row_group(0).sorting_columns
        assert tuple(schema.names[column.column_index] for column in sorting) == order


def test_a_large_table_of_steps_has_several_groups_and_is_the_same(
    experiment: Experiment,
) -> None:
    whole = exported(experiment)[1]
    snapshot = read_snapshot(experiment)
    groups = list(step_groups(snapshot, 10))
    assert [group.num_rows for group in groups] == [3, 40, 1]
    assert pa.concat_tables(groups).to_pylist() == whole.to_pylist()


def test_steps_know_their_experiment_tokens_and_time(make_experiment: Make) -> None:
    experiment = make_experiment()
    known: dict[str, Any] = {"lr": 0.02, "grad_norm": 1.5, "ended_unix_s": 1767225600.25}
    rows = [row(20, **known), row(21), row(22, ended_unix_s=-1.0), row(23, grad_norm=math.nan)]
    experiment.trial("static-b1").append_rows(0, rows)
    first, second, third, fourth = exported(experiment)[1].to_pylist()
    assert (first["experiment"], first["tokens_seen"]) == (experiment.id, 21 * 512)
    assert (first["lr"], first["grad_norm"]) == (0.02, 1.5)
    assert first["ended_utc"] == datetime(2026, 1, 1, 0, 0, 0, 250_000, UTC)
    assert [second[name] for name in ("lr", "grad_norm", "ended_utc")] == [None] * 3
    assert (third["ended_utc"], third["flags"]) == (None, [NOT_FINITE])
    assert (fourth["grad_norm"], fourth["flags"]) == (None, [NOT_FINITE])


def test_events_tell_each_attempt_in_order(experiment: Experiment) -> None:
    events = pq.read_table(export_experiment(experiment)[2]).to_pylist()
    static = [(event["attempt"], event["event"]) for event in events if event["leg"] == "static"]
    assert static == [
        (0, "attempt_started"),
        (1, "attempt_started"),
        (1, "attempt_completed"),
        (None, "trial_completed"),
    ]
    failed = next(event for event in events if event["event"] == "attempt_failed")
    assert (failed["leg"], failed["error_message"], failed["step"]) == ("static_cap1p25", "no | kernel", 0)
    assert {event["event"] for event in events} <= set(EVENTS)


def test_verdicts_hold_a_row_per_gate_and_per_leg(experiment: Experiment) -> None:
    rows = pq.read_table(export_experiment(experiment)[3]).to_pylist()
    assert [(r["kind"], r["metric"], r["leg"]) for r in rows] == [
        ("gate", "tok_per_sec", "static_cap1p25"),
        ("gate", "loss", "static_cap1p25"),
        ("leg", "tok_per_sec", "static_cap1p25"),
        ("leg", "tok_per_sec", "none_cap1p25"),
        ("leg", "tok_per_sec", "bf16"),
    ]
    assert {r["experiment"] for r in rows} == {experiment.id}


def test_a_leg_knows_where_it_came_from(experiment: Experiment) -> None:
    leg = of_leg(exported(experiment)[0], "static")[0]
    assert leg["run_id"] == f"{experiment.id}/static-b1"
    assert json.loads(leg["argv_json"]) == ["nanochat-sweep", "launch", "toy.py"]
    assert leg["attempt_git_diff_sha256s"] == [None, None]
    assert leg["git_dirty"] in (True, False), "the launch's, as the attempts have not stored it"


def test_every_file_is_written(experiment: Experiment) -> None:
    assert [Path(file).name for file in export_experiment(experiment)] == list(FILES)
