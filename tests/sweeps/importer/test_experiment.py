"""A folder of logs becomes an experiment: what its lines say, and null for everything else."""

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.importer.experiment import plan_of, read_runs, store_runs
from sweeps.importer.folder import read_folder
from sweeps.records.experiment import Experiment
from sweeps.results.decisions.judgement import judge
from sweeps.results.measures.explanation import explain
from sweeps.results.measures.snapshot import Snapshot, read_snapshot
from sweeps.results.report.build import write_report
from sweeps.results.status import status_json
from sweeps.results.tables.build import legs_table, steps_table
from sweeps.results.tables.csv import csv_files
from sweeps.spec.errors import UsageError
from tests.helpers.foreign_logs import START, log_lines, step_line, write_log


def imported(folder: Path, storage: Path, baseline: str | None = None, candidate: str | None = None) -> Snapshot:
    found = read_folder(folder)
    runs = read_runs(found)
    return read_snapshot(store_runs(str(storage), "old", found, runs, plan_of(runs, "logs", baseline, candidate)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    logs = tmp_path / "logs"
    write_log(logs, "exact", log_lines(dt_ms=1120), capacity="0.0")
    write_log(logs, "capped", log_lines(dt_ms=670), capacity="1.0")
    write_log(logs, "cut", log_lines(ends=False, num_printed=30))
    write_log(logs, "broken", [*START, "torch._inductor.exc.InductorError: AssertionError: "])
    (logs / "empty.log").touch()
    return logs


def test_a_run_shows_what_its_lines_say_to_every_digit(folder: Path, tmp_path: Path) -> None:
    by_name = {t["leg"]: t for t in status_json(imported(folder, tmp_path / "s"))["trials"]}
    exact = by_name["exact"]
    tail = [1120 + step % 7 for step in range(70, 120)]
    assert (exact["status"], exact["steps_observed"], exact["last_step"]) == ("completed", 120, 119)
    assert exact["last_loss"] == 10.0 - 119 / 50
    assert exact["tail50_dt_ms"] == pytest.approx(sum(tail) / 50)
    assert exact["tail50_tok_sec"] == pytest.approx(sum(round(524_288_000 / ms) for ms in tail) / 50)
    assert exact["tail50_bf16_mfu"] == pytest.approx(sum(round(6500 / ms, 2) for ms in tail) / 50)
    assert (exact["peak_mem_mib"], exact["total_time_min"]) == (22790.06, pytest.approx(1.85))
    assert [by_name[name]["status"] for name in ("cut", "broken", "empty")] == ["interrupted", "failed", "interrupted"]
    assert by_name["cut"]["peak_mem_mib"] is None
    assert [by_name["empty"][key] for key in ("last_step", "last_loss", "tail50_tok_sec")] == [None] * 3


def test_its_csv_is_what_a_script_reads_from_the_log_itself(folder: Path, tmp_path: Path) -> None:
    files = {name: body.decode().splitlines() for name, body in csv_files(imported(folder, tmp_path / "s")).items()}
    tail = range(70, 120)
    speed = sum(round(524_288_000 / (1120 + step % 7)) for step in tail) / 50
    mfu = sum(round(6500 / (1120 + step % 7), 2) for step in tail) / 50
    dt_ms = sum(1120 + step % 7 for step in tail) / 50
    (exact,) = [line for line in files["summary.csv"] if line.startswith("exact,")]
    assert exact == f"exact,completed,120,119,7.620000,{speed:.2f},{mfu:.4f},{dt_ms:.2f},22790.06,1.85,"
    assert "broken,failed,0,,,,,,,,torch._inductor.exc.InductorError: AssertionError:" in files["summary.csv"]
    assert "empty,unknown,0,,,,,,,," in files["summary.csv"]
    assert f"exact,1,9.98,24.0312,1121.0,{524_288_000 / 1121:.0f},5.8" in files["steps.csv"]


def test_what_no_line_says_is_null_in_the_tables(folder: Path, tmp_path: Path) -> None:
    snapshot = imported(folder, tmp_path / "s")
    legs = {row["leg"]: row for row in legs_table(snapshot).to_pylist()}
    for name in ("seed", "config_json", "config_sha256", "git_commit", "host", "useful_mfu_pct", "loss", "dropped_pct"):
        assert legs["exact"][name] is None, name
    assert (legs["exact"]["p_moe_capacity_factor"], legs["capped"]["p_moe_capacity_factor"]) == (None, 1.0)
    assert legs["cut"]["p_moe_capacity_factor"] is None
    assert "cut.cmd.txt" in legs["cut"]["why_no_config"]
    assert legs["exact"]["why_no_config"] is None
    assert (legs["exact"]["num_workers"], legs["exact"]["device_name"]) == (8, "NVIDIA H800")
    assert legs["exact"]["imported_lines"] == "1-131"
    steps = steps_table(snapshot).to_pylist()
    assert {row["loss"] for row in steps} == {row["slowest_rank"] for row in steps} == {None}
    assert [row["peak_mib"] for row in steps if row["leg"] == "exact"] == [None] * 119 + [22790.06]


def test_utilisation_is_computed_again_for_the_cards_real_peak(folder: Path, tmp_path: Path) -> None:
    (exact,) = imported(folder, tmp_path / "s").of_leg("exact")
    tokens_per_s = exact.measures["tail50_tok_per_sec"]
    assert tokens_per_s is not None
    assert exact.measures["tail50_bf16_mfu_pct"] == pytest.approx(100 * 7.31838e8 * tokens_per_s / (989e12 * 8))


def test_an_unknown_card_gives_no_utilisation(tmp_path: Path) -> None:
    lines = [line.replace("NVIDIA H800", "Some Card") for line in log_lines()]
    (run,) = imported(write_log(tmp_path / "logs", "a", lines), tmp_path / "s").trials
    assert run.measures["tail50_bf16_mfu_pct"] is None
    assert run.measures["tail50_bf16_mfu_printed_pct"] is not None


def test_gates_give_advice_only(folder: Path, tmp_path: Path) -> None:
    judgement = judge(imported(folder, tmp_path / "s", "exact", "capped"))
    assert [gate.word for gate in judgement.gates] == ["ADVISORY", "ADVISORY"]
    assert judgement.exit_code == 4
    assert judgement.gates[0].value == pytest.approx(1123 / 673, rel=0.01)
    assert judgement.gates[0].reason == "capped and exact were read from a log"


def test_no_field_of_an_unknown_config_is_said_to_differ(folder: Path, tmp_path: Path) -> None:
    write_log(folder, "nameless", log_lines())
    snapshot = imported(folder, tmp_path / "s", "exact")
    assert explain(snapshot, "nameless", "exact").fields == {}
    assert explain(snapshot, "capped", "exact").fields == {"moe.capacity_factor": (1.0, None)}


def test_a_report_names_every_log(folder: Path, tmp_path: Path) -> None:
    imported(folder, tmp_path / "s")
    write_report(Experiment.open(str(tmp_path / "s/old")))
    report = (tmp_path / "s/old/report/report.md").read_text()
    for name in ("exact", "capped", "cut", "broken", "empty"):
        assert f"`{folder / name}.log`" in report
    assert "recompiled" not in report


def test_runs_on_different_cards_are_not_compared(folder: Path, tmp_path: Path) -> None:
    write_log(folder, "capped", [line.replace("H800", "H20") for line in log_lines()])
    judgement = judge(imported(folder, tmp_path / "s", "exact", "capped"))
    assert judgement.gates[0].word == "INVALID"
    assert judgement.gates[0].reason == "NVIDIA H20 against NVIDIA H800"


def test_several_runs_of_one_file_are_several_legs(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "logs", "two", [*log_lines(), *log_lines(dt_ms=500)])
    assert [trial.run for trial in imported(folder, tmp_path / "s").trials] == ["two", "two-2"]


def test_a_resumed_run_is_one_whose_repeated_steps_count_once(tmp_path: Path) -> None:
    more = [step_line(step, 120, dt_ms=900, loss=5, minutes=step / 60) for step in range(60, 120)]
    lines = [
        *log_lines(ends=False, num_printed=80),
        *START,
        *more,
        "Peak memory usage: 5.00MiB",
        "Total training time: 2.00m",
    ]
    (run,) = imported(write_log(tmp_path / "logs", "a", lines), tmp_path / "s").trials
    assert (run.state, run.num_attempts, run.measures.steps_observed) == ("completed", 2, 120)
    assert run.steps.ints("attempt") == [0] * 60 + [1] * 60
    assert run.counted == [20 <= step < 60 or step >= 80 for step in range(120)]


def test_a_queues_status_says_that_a_silent_run_failed(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "logs", "a", log_lines(ends=False, num_printed=30))
    (folder / "launch.txt").write_text(
        "[queue t 2026-02-24T16:00:00+08:00] start a\nnoise\n[queue t 2026-02-24T16:06:00+08:00] finish a status=1\n"
    )
    (run,) = imported(folder, tmp_path / "s").trials
    assert run.state == "failed"
    assert run.imported is not None
    assert run.imported.error == "its queue says that it ended with status 1"
    assert run.imported.started_utc == "2026-02-24T08:00:00.000000Z"


def test_an_import_that_was_cut_off_is_done_again_and_a_whole_one_kept(folder: Path, tmp_path: Path) -> None:
    imported(folder, tmp_path / "s")
    (tmp_path / "s/old/trials/exact-b1/imported.json").unlink()
    assert imported(folder, tmp_path / "s").of_leg("exact")[0].state == "completed"
    with pytest.raises(UsageError, match="exists already"):
        imported(folder, tmp_path / "s")


def test_a_folder_without_logs_says_which_folders_it_has(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(UsageError, match="it has folders: runs"):
        read_folder(tmp_path)


def test_a_run_that_is_none_cannot_be_the_baseline(folder: Path) -> None:
    with pytest.raises(UsageError, match="--baseline: there is no run 'exakt'; did you mean exact"):
        plan_of(read_runs(read_folder(folder)), "logs", "exakt", None)


def allowed_numbers(lines: list[str]) -> set[str]:
    return {word for line in lines for word in line.replace("/", " ").replace("ms", " ").replace("m", " ").split()}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_no_mutation_breaks_the_import_or_makes_a_number(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: int
) -> None:
    rng = random.Random(seed)
    lines = log_lines(num_steps=40)
    data = bytearray("\n".join(lines).encode())
    for _ in range(cuts):
        at = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randrange(80)]
        elif kind == 2:
            other = rng.randrange(len(data))
            data[at:at] = data[other : other + rng.randrange(200)]
        else:
            data[at:at] = b"\n"
    folder = tmp_path_factory.mktemp("logs")
    (folder / "a.log").write_bytes(bytes(data))
    for trial in imported(folder, folder / "s").trials:
        for row in trial.steps.rows():
            assert row.loss is None
            for value in (row.dt_ms, row.loss_ema, row.tok_per_sec):
                assert value is None or value >= 0 or math.isnan(value) or row.loss_ema == value
