"""Whole runs on a GPU: recorded micro-steps, measures between them, resuming, and every compile mode at full width.

The cheap ones come first; most of the time goes into compiling.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.checkpoints import folders as checkpoint_folders
from nanochat.config import CompileMode, TrainConfig, with_overrides
from nanochat.loop.setup import prepare
from nanochat.loop.stepping import Stepper
from nanochat.model import compiling
from nanochat.recipes import d12_moe_fp8
from nanochat.stats import Checkpoint, Hooks, StepStats
from nanochat.train import train
from tests.helpers.configs import FP8, card_config
from tests.helpers.gpu import sqnr_db

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("fresh_process")]


def _hooks(rows: list[StepStats], root: Path | None = None, checkpoints: Iterable[Path] = ()) -> Hooks:
    def save(state: Checkpoint) -> None:
        if root is not None:
            checkpoint_folders.save(root, state, keep=9)

    return Hooks(
        on_step=rows.append,
        save=save,
        checkpoints=lambda: checkpoints,
    )


def _rows(config: TrainConfig) -> list[StepStats]:
    rows: list[StepStats] = []
    assert train(config, _hooks(rows)).completed
    return rows


# Recorded micro-steps


@pytest.mark.parametrize("precision", [{}, FP8, FP8 | {"moe.capacity_factor": 1.0}], ids=str)
def test_four_micro_steps_launched_or_replayed_add_the_gradients_of_one_batch(precision: dict[str, Any]):
    # Balance and queues are of a micro-batch, and so is a tensorwise FP8 scale: only without them is a batch their sum.
    run = prepare(
        card_config(**precision, **{"data.total_batch_tokens": 4096, "moe.balance_loss_coeff": 0.0}), _hooks([])
    )
    stepper = Stepper(run)
    for step in range(2):
        stepper(step)  # from the third micro-step on they are replayed
    batches = [tuple(t.clone() for t in run.feed.next()) for _ in range(4)]

    def gradients() -> dict[str, Tensor]:
        torch.cuda.synchronize()
        named = run.model.named_parameters()
        found = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}
        run.optimizer.zero_grad()
        return found

    assert stepper.recorded is not None
    found: list[dict[str, Tensor]] = []
    for take in (stepper.micro_step, stepper.recorded):
        for inputs, targets in batches:
            take(inputs, targets)
        found.append(gradients())
    if not precision:
        whole = tuple(torch.cat(tensors) for tensors in zip(*batches, strict=True))
        run.model(*whole)[0].mean().backward()
        found.append(gradients())
    run.feed.close()
    launched, *others = found
    for name, gradient in launched.items():
        assert gradient.abs().max() > 0, name
        for other in others:
            assert sqnr_db(other[name], gradient) > 35, name


def test_a_recorded_update_undoes_a_step_whose_gradients_are_not_finite():
    run = prepare(card_config(**FP8), _hooks([]))
    stepper = Stepper(run)
    steps = [stepper(step) for step in range(4)]  # from the third on the update is replayed
    before = [p.detach().clone() for p in run.model.parameters()]
    grad = next(run.model.parameters()).grad
    assert grad is not None
    grad.view(-1)[0] = float("nan")  # micro-steps add to it
    steps.append(stepper(4))
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    steps.append(stepper(5))
    assert any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert [step.active for step in steps] == [1, 1, 1, 1, 0, 1]


def test_a_recording_that_would_compile_something_again_says_what():
    run = prepare(card_config(**{"compile.mode": "static"}), _hooks([]))
    recorded = Stepper(run).recorded
    assert recorded is not None
    for _ in range(2):
        recorded(*run.feed.next())
    shorter = [tokens[:, :128] for tokens in run.feed.next()]
    run.feed.close()
    with pytest.raises(RuntimeError, match="Detected recompile"):
        recorded(*shorter)


# Next to the steps


def _bundle(folder: Path) -> Path:
    (folder / "eval_data").mkdir(parents=True)
    task = {"label": "t", "dataset_uri": "t.jsonl", "num_fewshot": [1], "icl_task_type": "multiple_choice"}
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": [task]}))
    (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nt,50\n")
    questions = [{"query": f"Who came on day {n}?", "choices": ["Anne did", "nobody"], "gold": 0} for n in range(5)]
    (folder / "eval_data" / "t.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    return folder


def test_evaluations_samples_and_checkpoints_between_recorded_steps_change_no_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = card_config(**FP8, **{"run.deterministic": True, "moe.capacity_factor": 1.0, "schedule.num_steps": 9})
    measures = {"eval.every": 2, "eval.num_tokens": 2048, "eval.sample_every": 4, "eval.core_every": 3}
    measured: list[StepStats] = []
    measuring = with_overrides(config, measures | {"eval.core_bundle": str(_bundle(tmp_path / "core"))})
    train(with_overrides(measuring, {"run.checkpoint_every": 4}), _hooks(measured, tmp_path))
    assert [row.loss for row in measured] == [row.loss for row in _rows(config)]
    assert [row.step for row in measured if row.val_bpb is not None and 0 < row.val_bpb < 9] == [1, 3, 5, 7, 8]
    assert [row.step for row in measured if row.core_metric is not None] == [2, 5, 8]
    assert capsys.readouterr().out.count("| Sample: ") >= 6
    assert [path.name for path in checkpoint_folders.newest_first(tmp_path)] == ["step_000008", "step_000004"]


def test_a_router_bias_and_a_z_loss_work_between_recorded_steps():
    rows = _rows(card_config(**{"moe.router_bias_rate": 0.001, "moe.router_z_loss_coeff": 0.001}))
    assert rows[-1].largest_router_bias is not None
    assert 0.002 < rows[-1].largest_router_bias < 0.0061
    assert all(row.z_loss is not None and row.z_loss > 0 for row in rows)


# Compiled


def test_a_deterministic_compiled_run_resumed_from_a_checkpoint_is_bit_equal_to_the_undisturbed_one(tmp_path: Path):
    config = card_config(**FP8, **{"run.deterministic": True, "moe.capacity_factor": 1.0, "compile.mode": "static"})
    whole: list[StepStats] = []
    train(with_overrides(config, {"run.checkpoint_every": 2}), _hooks(whole, tmp_path))
    rest: list[StepStats] = []
    torch.compiler.reset()
    train(config, _hooks(rest, checkpoints=[tmp_path / "step_000004"]))
    assert [row.step for row in rest] == [4, 5]
    for resumed, undisturbed in zip(rest, whole[4:], strict=True):
        numbers = ("loss", "loss_ema", "bal", "dropped_pct", "max_vio", "epoch")
        assert [getattr(resumed, n) for n in numbers] == [getattr(undisturbed, n) for n in numbers]


@pytest.mark.parametrize("precision", [{}, FP8 | {"precision.recipe": "rowwise"}], ids=str)
def test_a_compiled_run_trains_like_an_uncompiled_one(precision: dict[str, Any]):
    compiled, plain = (_rows(card_config(**precision, **{"compile.mode": mode})) for mode in ("static", "none"))
    assert [row.loss for row in compiled] == pytest.approx([row.loss for row in plain], abs=0.03)


def _full_width(mode: CompileMode, factor: float | None) -> TrainConfig:
    """The config of the capacity sweep with 2 layers in place of 12, and 2 micro-steps of 16,384 tokens."""
    sizes = {"model.depth": 2, "model.aspect_ratio": 384, "data.total_batch_tokens": 32_768, "run.device": "cuda"}
    config = with_overrides(d12_moe_fp8(num_steps=8), sizes | {"compile.mode": mode, "moe.capacity_factor": factor})
    assert config.model.width == 768
    return config


@pytest.fixture(scope="module")
def uncompiled_losses() -> dict[float | None, list[float]]:
    """At full width, by capacity factor."""
    return {factor: [row.loss for row in _rows(_full_width("none", factor))] for factor in (None, 1.0)}


@pytest.mark.parametrize("factor", [None, 1.0])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_at_full_width_every_compile_mode_trains_fp8_experts_without_a_graph_break_or_a_recompile(
    uncompiled_losses: dict[float | None, list[float]], mode: CompileMode, factor: float | None
):
    rows: list[StepStats] = []
    num_graphs: list[int] = []

    def note(row: StepStats) -> None:
        rows.append(row)
        num_graphs.append(compiling.num_graphs())

    before = compiling.num_graphs()
    hooks = Hooks(on_step=note)
    assert train(_full_width(mode, factor), hooks).completed  # a graph break is an error, by fullgraph
    assert num_graphs[0] > before
    assert set(num_graphs) == {num_graphs[0]}, "compiled once, in the first step"
    losses = [row.loss for row in rows]
    assert losses[0] == pytest.approx(uncompiled_losses[factor][0], abs=0.005)
    assert losses == pytest.approx(uncompiled_losses[factor], abs=0.05)
    assert losses[-1] < losses[0] - 0.5
