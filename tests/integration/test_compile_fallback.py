"""Legs whose blocks cannot be compiled, from the trainer through Ray and storage to the report: no C++ compiler."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nanochat.config import with_overrides
from nanochat.recipes import d12_moe, shrink_to_tiny
from sweeps.engine.launch import run_experiment
from sweeps.engine.trials.context import LaunchContext
from sweeps.records.experiment import Experiment
from sweeps.records.provenance import new_manifest
from sweeps.results.report.build import refresh
from sweeps.spec import Axis, Gate, Sweep, TailWindow
from sweeps.spec.plan import make_plan

pytestmark = pytest.mark.integration

NUM_STEPS = 3


@pytest.fixture
def without_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ranks inherit: no C++ compiler, and no graphs of earlier runs."""
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "graphs"))
    return tmp_path


def test_a_leg_fails_by_its_cause_or_is_completed_marked_and_compared_with_none(without_compiler: Path) -> None:
    sweep = Sweep(
        name="uncompilable",
        base=with_overrides(shrink_to_tiny(d12_moe(num_steps=NUM_STEPS)), {"schedule.num_steps": NUM_STEPS}),
        num_workers=1,
        axes=[Axis("compile.mode", ["static", "none"]), Axis("compile.fallback", ["none", "error"])],
        only=[("static", "none"), ("none", "error"), ("static", "error")],
        baseline={"compile.mode": "none", "compile.fallback": "error"},
        candidate={"compile.mode": "static", "compile.fallback": "none"},
        window=TailWindow(num_steps=2),
        gates=[Gate("loss", at_most=1.005)],
        leg_name=lambda config: f"{config.compile.mode}_or_{config.compile.fallback}",
    )
    manifest = new_manifest(make_plan(sweep), id="uncompilable", argv=["test"], settings={})
    experiment = Experiment.create(str(without_compiler), "uncompilable", manifest)
    outcome = run_experiment(experiment, LaunchContext(on_event=lambda event: None, refresh=refresh))

    assert (outcome.completed, outcome.failed) == (("static_or_none-b1", "none_or_error-b1"), ("static_or_error-b1",))
    error = experiment.trial("static_or_error-b1").attempts()[-1].error
    assert error is not None
    assert error.type == "CompileError"
    assert "with compile.mode 'static': InvalidCxxCompiler" in error.message
    assert "compile.fallback 'none'" in error.message

    rows = experiment.trial("static_or_none-b1").rows()
    assert [row.step for row in rows] == [0, 1, 2]
    assert all("fallback" in row.flags for row in rows)
    assert [row.loss for row in rows] == [row.loss for row in experiment.trial("none_or_error-b1").rows()]
    report = experiment.store.read("report/report.md").decode()
    assert "**INVALID.** `static_or_none` cannot be judged against `none_or_error`" in report
    assert "| `static_or_none` (fell back to no compilation) | completed | 3 |" in report
    assert "`static_or_none` ran uncompiled, so it is compared with no other: on rank 0 torch.compile" in report
    legs = pq.read_table(Path(experiment.uri, "export", "legs.parquet")).to_pylist()
    why = {leg["leg"]: leg["compile_fallback"] for leg in legs}
    assert "InvalidCxxCompiler" in why["static_or_none"]
    assert why["none_or_error"] is None
