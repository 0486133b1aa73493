"""The report leads with what can be concluded, holds every run, and is the same bytes for the same data."""

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.records.experiment import Experiment
from sweeps.records.rows import StepRow
from sweeps.results.measures.compare import Mean, mean_over_blocks
from sweeps.results.measures.snapshot import read_snapshot
from sweeps.results.report.build import build_report, markdown_files, refresh, write_chosen, write_report
from sweeps.results.report.html import render_html
from tests.helpers.failing import fail_attempt

Make = Callable[..., Experiment]
MakeRow = Callable[..., StepRow]
Complete = Callable[..., None]


def steps_of(make_row: MakeRow, trial: str, dt_ms: float, loss: float, peak_mib: float) -> list[StepRow]:
    """40 steps that end at `loss`; 512 tokens a step, and dt_ms thousandths of a minute."""
    return [
        make_row(
            s,
            trial=trial,
            dt_ms=dt_ms,
            tok_per_sec=512_000 / dt_ms,
            loss=loss + (39 - s) * 0.1,
            loss_ema=loss + (39 - s) * 0.1,
            peak_mib=peak_mib,
            train_time_s=max(0, s - 10) * dt_ms * 0.06,
        )
        for s in range(40)
    ]


@pytest.fixture
def done(make_experiment: Make, complete: Complete, make_row: MakeRow) -> Experiment:
    """The candidate is twice as fast as the baseline with 90 % of its memory; bf16 is four times as fast."""
    experiment = make_experiment()
    for name, dt_ms, loss, peak_mib in (
        ("static-b1", 200.0, 4.0, 1000.0),
        ("static_cap1p25-b1", 100.0, 4.0, 900.0),
        ("none_cap1p25-b1", 400.0, 3.9, 1000.0),
        ("bf16-b1", 50.0, 3.8, 1100.0),
    ):
        complete(experiment, name, steps_of(make_row, name, dt_ms, loss, peak_mib))
    return experiment


def report(experiment: Experiment) -> str:
    return Path(write_report(experiment)[0]).read_text()


def files(experiment: Experiment) -> dict[str, str]:
    """Both forms of the report, by file name."""
    made = build_report([read_snapshot(experiment)])
    return markdown_files(made, "report.md") | {"report.html": render_html(made)}


def test_the_first_words_say_that_one_block_is_advice_and_how_the_candidate_stands(done: Experiment) -> None:
    verdict = report(done).split("\n\n")[2]
    assert verdict.startswith("**ADVISORY.** Not decided: `static_cap1p25` shows +100 % tok/s over `static`")
    assert verdict.endswith("; 4 of 4 trials.")
    assert "Each leg has a single run, and runs of the same leg vary" in report(done).split("\n\n")[3]


def test_the_fp8_legs_are_held_against_the_bf16_control(done: Experiment) -> None:
    _, held = report(done).split("Fastest FP8 leg `static_cap1p25` over the bf16 control `bf16`:")
    assert "| time to the control's loss | not reached | control: 0.03 min; target 4.2712, +0.50 % over" in held
    assert "| tok/s | −50.0 % | 5,120 against 10,240 |" in held


def test_time_to_the_baselines_loss_leads(done: Experiment) -> None:
    lead, _ = report(done).split("## Runs")
    assert "| time to the baseline's loss | 0.07 min | baseline: 0.13 min, −50.0 %; target 4.4722, +0.50 % over" in lead


def test_gates_have_value_and_bound_and_one_block_decides_none(done: Experiment) -> None:
    _, gates = report(done).split("## Gates")
    why = "ADVISORY: 1 of the 3 blocks that a verdict needs"
    assert f"| `tok_per_sec` | `static` | better | +100 % | 1 | {why} |" in gates
    assert f"| `loss` | `static` | at most −1.0 % | 0 % | 1 | {why} |" in gates
    assert f"| `bf16` | control | +300 % | {why} |" in gates


def test_each_leg_has_its_ratios_and_its_minutes_to_the_baselines_loss(done: Experiment) -> None:
    text = report(done)
    why = "ADVISORY: 1 of the 3 blocks that a verdict needs"
    assert "| `static` | baseline | - | - | - | - | 0.13 | - | 1 |" in text
    assert f"| `bf16` | control | +300 % | {why} | +10.0 % | −4.5 % | 0.03 | - | 1 |" in text


def test_every_run_is_in_the_summary_with_the_usual_digits(done: Experiment) -> None:
    text = report(done)
    assert (
        "| run | status | steps_observed | last_step | last_loss | tail50_tok/sec | tail50_mfu | tail50_dt_ms "
        "| peak_mem_mib | total_time_min |"
    ) in text
    assert "| `static_cap1p25` | completed | 40 | 39 | 4.0000 | 5,120 | 5.00 | 100.0 | 900 | 2.90 |" in text


def test_what_is_not_there_is_a_dash(make_experiment: Make) -> None:
    text = report(make_experiment())
    assert "| `static` | pending | 0 | - | - | - | - | - | - | - |" in text
    assert "cannot be compared yet" in text
    assert "No trial was interrupted or failed." in text


def test_cpu_speeds_are_called_meaningless_and_gpu_speeds_are_not(
    done: Experiment, make_experiment: Make, complete: Complete
) -> None:
    on_cpu = make_experiment(id="cpu")
    complete(on_cpu, "static-b1", device="cpu", device_name="a processor", peak_bf16_flops=None)
    sentence = "speed ranking of compile modes and of precisions means nothing"
    assert sentence in report(on_cpu)
    assert sentence not in report(done)


def test_an_interruption_says_where_it_went_on_and_what_was_repeated(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    trial = experiment.trial("static-b1")
    host = trial.start_attempt(num_workers=2).host
    trial.append_rows(0, [make_row(s) for s in range(14)])
    second = trial.start_attempt(num_workers=2)
    trial.update_attempt(dataclasses.replace(second, first_step=10))
    trial.append_rows(1, [make_row(s, attempt=1) for s in range(10, 40)])
    line = f"- `static`: attempt 0 on {host} stored steps 0 to 13 and was cut off; "
    assert line + "attempt 1 resumed at step 10 (4 steps repeated)." in report(experiment)


def test_a_failure_is_told_with_its_error_and_log(make_experiment: Make) -> None:
    experiment = make_experiment()
    fail_attempt(experiment.trial("static_cap1p25-b1"), "InductorError", "bad | kernel\n<script>")
    text = report(experiment)
    assert r"stored no step and failed: InductorError: bad \| kernel \<script\>" in text
    assert "`trials/static_cap1p25-b1/log.txt`" in text
    assert "| static | failed before the first step |" in text


def test_a_torn_part_is_named(done: Experiment) -> None:
    part = Path(done.uri) / "trials" / "bf16-b1" / "rows" / "a000-p000000.jsonl"
    part.write_bytes(part.read_bytes()[:-5])
    assert "- `trials/bf16-b1/rows/a000-p000000.jsonl` is torn" in report(done)


def test_the_same_experiment_gives_the_same_bytes_wherever_it_lies(done: Experiment, tmp_path: Path) -> None:
    first = files(done)
    assert files(done) == first
    assert str(tmp_path) not in "".join(first.values())
    shutil.copytree(done.uri, tmp_path / "moved")
    assert files(Experiment.open(str(tmp_path / "moved"))) == first


def test_the_figures_lie_beside_the_report_and_are_linked_relatively(done: Experiment, tmp_path: Path) -> None:
    place = tmp_path / "out" / "capacity.md"
    assert write_chosen([read_snapshot(done)], place, None) == [str(place)]
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", place.read_text())
    assert linked == [f"capacity-{key}.svg" for key in ("effect", "loss", "dt", "memory", "blocks")]
    assert sorted(p.name for p in place.parent.iterdir()) == sorted(["capacity.md", *linked])


def test_refresh_writes_tables_and_report_of_one_moment(done: Experiment) -> None:
    refresh(done)
    written = {str(p.relative_to(done.uri)) for p in Path(done.uri).glob("[er]*/*") if p.is_file()}
    assert {
        "export/legs.parquet",
        "export/steps.parquet",
        "report/report.md",
        "report/report.html",
        "report/report-dt.svg",
        "report/report-loss.svg",
    } <= written


def test_several_blocks_are_compared_block_by_block(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment(num_blocks=2)
    times = {"static-b1": 200.0, "static_cap1p25-b1": 100.0, "static-b2": 400.0, "static_cap1p25-b2": 400.0}
    for name, dt_ms in times.items():
        complete(experiment, name, steps_of(make_row, name, dt_ms, 4.0, 1000.0))
    text = report(experiment)
    assert "`static_cap1p25` shows +41.4 % tok/s over `static`" in text
    why = "ADVISORY: 2 of the 3 blocks that a verdict needs"
    assert f"| `static_cap1p25` | candidate | +41.4 % | {why} |" in text  # the geometric mean of 2 and 1
    assert "| `static_cap1p25-b2` | completed |" in text


def test_several_experiments_make_one_summary_with_their_names(
    done: Experiment, make_experiment: Make, tmp_path: Path
) -> None:
    snapshots = [read_snapshot(done), read_snapshot(make_experiment(id="other"))]
    page, text = tmp_path / "all.html", tmp_path / "all.md"
    assert write_chosen(snapshots, text, page) == [str(text), str(page)]
    written = text.read_text()
    assert written.startswith("# toy: 2 experiments\n")
    assert "**ADVISORY.** `20260101_120000_toy`: Not decided" in written
    assert "`other`: `static_cap1p25` cannot be compared yet" in written
    assert "| experiment | run | status |" in written
    assert "| `other` | `static` | pending |" in written
    assert "- `other`, `export/legs.parquet`: one row per trial" in written
    assert re.findall(r"!\[[^\]]+\]\(([^)]+)\)", written) == ["all-effect-1.svg", "all-effect-2.svg"]
    assert page.read_text().count('scope="col" class="text">experiment<') >= 4


def test_a_leg_is_compiled_in_one_line_whatever_the_number_of_blocks(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment(num_blocks=2)
    complete(experiment, "static-b1", [make_row(0, trial="static-b1", dt_ms=9000.0)])
    complete(experiment, "static-b2", [make_row(0, trial="static-b2", dt_ms=4000.0)], compile_cache="warm")
    assert "| `static` | static | ok | cold / warm | 0 | - | 9.0 | experts grouped, linears float8 |" in report(
        experiment
    )


def test_kernels_and_cache_are_those_of_every_attempt(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    record = experiment.trial("static-b1")
    first = record.start_attempt(num_workers=2)
    record.append_rows(0, [make_row(0, dt_ms=9000.0)])
    told = {"backends": {"experts": "loop"}, "compile_cache": "cold"}
    record.update_attempt(dataclasses.replace(first, facts=told))
    complete(experiment, "static-b1", [make_row(s, attempt=1) for s in range(1, 40)], compile_cache="warm")
    assert (
        "| `static` | static | ok | cold / warm | 0 | - | 9.0 | experts loop / experts grouped, linears float8 |"
        in report(experiment)
    )


# Routers and GPUs


def test_the_worst_layer_is_named_beside_the_means_over_layers(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment()
    layers = {
        "layer_dropped_pct": (1.0, 3.0),
        "layer_max_vio": (0.5, 0.25),
        "layer_dead_experts": (0.0, 1.5),
        "layer_lost_tokens_pct": (0.0, 0.5),
    }
    early = dict.fromkeys(layers, (99.0, 99.0))
    rows = [make_row(s, trial="static_cap1p25-b1", **(early if s < 30 else layers)) for s in range(40)]
    complete(experiment, "static_cap1p25-b1", rows)
    text = report(experiment)
    assert "| `static_cap1p25` | 2.00 | 3.00 (layer 1) | 0.25 | 0.50 (layer 0) | 1.50 |" in text
    assert "`static` | " not in text.split("## Routing")[1].split("## ")[0]


def test_a_report_without_experts_and_slowed_gpus_does_not_mention_them(done: Experiment) -> None:
    assert "## Routing" not in report(done)
    assert "## GPU throttling" not in report(done)


def test_slowed_gpus_are_told_with_their_reasons(make_experiment: Make, complete: Complete, make_row: MakeRow) -> None:
    experiment = make_experiment()
    hot = {"gpu_throttle_bits": 4 | 32, "gpu_temperature_c": 88.0, "gpu_clock_mhz": 1200.0, "flags": ("throttled",)}
    rows = [make_row(s, gpu_throttle_bits=4, gpu_temperature_c=60.0, gpu_clock_mhz=1980.0) for s in range(40)]
    rows[30:34] = [make_row(s, **hot) for s in range(30, 34)]
    complete(experiment, "static-b1", rows)
    section = report(experiment).split("## GPU throttling")[1].split("## ")[0]
    assert (
        "- `static`: 4 of 40 steps, 3 of them counted, down to 1200 MHz, at up to 88 C, because of sw thermal slowdown"
        in section
    )


# Steps that changed nothing


def test_skipped_steps_are_counted_and_told(make_experiment: Make, complete: Complete, make_row: MakeRow) -> None:
    experiment = make_experiment()
    complete(experiment, "bf16-b1")
    rows = [make_row(s, trial="static-b1", flags=("skipped",) if s in (7, 30) else ()) for s in range(40)]
    complete(experiment, "static-b1", rows)
    _, told = report(experiment).split("## Interruptions and failures")
    assert "- `static` skipped 2 of 40 steps, whose gradient was not finite; the last is 30" in told
    assert told.count("not finite") == 1
    counts = {t.trial.leg.name: t.measures.num_skipped_steps for t in read_snapshot(experiment).trials}
    assert (counts["static"], counts["bf16"]) == (2, 0)


# Legs that could not be compiled


@pytest.fixture
def fallen_back(make_experiment: Make, complete: Complete, make_row: MakeRow) -> Experiment:
    """All four legs are completed; the candidate continued uncompiled, and is a little slower than the baseline."""
    experiment = make_experiment()
    for name, dt_ms in (("static-b1", 200.0), ("none_cap1p25-b1", 400.0), ("bf16-b1", 50.0)):
        complete(experiment, name, steps_of(make_row, name, dt_ms, 4.0, 1000.0))
    name = "static_cap1p25-b1"
    rows = steps_of(make_row, name, 210.0, 4.0, 1000.0)
    why = "on rank 1 torch.compile failed in layer 0 of 2 with compile.mode 'static': InvalidCxxCompiler: no g++"
    flagged = [dataclasses.replace(row, flags=("fallback",)) for row in rows]
    complete(experiment, name, flagged, compile_fallback=why)
    return experiment


def test_a_leg_that_went_on_uncompiled_is_compared_with_none_and_says_why(fallen_back: Experiment) -> None:
    text = report(fallen_back)
    verdict = text.split("\n\n")[2]
    assert verdict.startswith(
        "**INVALID.** `static_cap1p25` cannot be judged against `static`: static\\_cap1p25 ran uncompiled."
    )
    assert "| `static_cap1p25` | candidate | not compared: static\\_cap1p25 ran uncompiled |" in text
    assert "| `static_cap1p25` (fell back to no compilation) | completed | 40 |" in text
    _, compiled = text.split("## Compile and kernels")
    assert "| `static_cap1p25` | static | failed, ran uncompiled |" in compiled
    assert (
        "- `static_cap1p25` ran uncompiled, so it is compared with no other: on rank 1 torch.compile failed in "
        "layer 0 of 2 with compile.mode 'static': InvalidCxxCompiler: no g++"
    ) in compiled
    assert "Fastest FP8 leg `static`" in text


def test_a_gate_on_a_leg_that_went_on_uncompiled_is_invalid(fallen_back: Experiment) -> None:
    _, rest = report(fallen_back).split("## Gates")
    gates, _ = rest.split("## Legs against the baseline")
    lines = [line for line in gates.splitlines() if line.startswith("| `")]
    assert len(lines) >= 2
    assert sum(line.endswith("| INVALID: static\\_cap1p25 ran uncompiled |") for line in lines) == 2


def test_legs_that_were_compiled_are_compared_beside_one_that_was_not(fallen_back: Experiment) -> None:
    why = "ADVISORY: 1 of the 3 blocks that a verdict needs"
    assert f"| `bf16` | control | +300 % | {why} | 0 % | 0 % |" in report(fallen_back)


def test_a_block_that_went_on_uncompiled_is_in_no_mean_and_leaves_the_lead_without_facts(
    make_experiment: Make, complete: Complete, make_row: MakeRow
) -> None:
    experiment = make_experiment(num_blocks=2)
    for name, dt_ms in (("static-b1", 200.0), ("static-b2", 200.0), ("static_cap1p25-b1", 100.0)):
        complete(experiment, name, steps_of(make_row, name, dt_ms, 4.0, 1000.0))
    name = "static_cap1p25-b2"
    flags = [dataclasses.replace(row, flags=("fallback",)) for row in steps_of(make_row, name, 400.0, 4.0, 3000.0)]
    complete(experiment, name, flags, compile_fallback="no g++")
    assert mean_over_blocks(read_snapshot(experiment), "static_cap1p25", "peak_mib") == Mean(value=1000.0, num_blocks=1)
    lead, _ = report(experiment).split("## Runs")
    assert "`static_cap1p25` ran uncompiled in block 2, which counts without it." in lead
    assert "Candidate `static_cap1p25` against" not in lead
