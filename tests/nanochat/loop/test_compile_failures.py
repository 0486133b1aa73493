"""Where compiling fails, all ranks fail alike and say why, or all continue uncompiled and are marked."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor, nn
from torch._inductor.exc import InductorError

from nanochat.config import TrainConfig
from nanochat.loop import compile_failures, setup
from nanochat.loop.compile_failures import CompileError
from nanochat.loop.setup import prepare
from nanochat.machine.ranks import Ranks
from nanochat.model import compiling, gpt
from nanochat.optimizer import updates
from nanochat.optimizer.updates import UpdateKernels
from nanochat.stats import Hooks, StepStats
from nanochat.train import train
from tests.helpers.configs import tiny_config
from tests.helpers.runs import trained
from tests.helpers.unknown_operator import norm_of_unknown_shape

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("fresh_process")]

REAL_NORM = gpt.norm


def _tiny(folder: Path | str, **overrides: Any) -> TrainConfig:
    sizes = {"schedule.num_steps": 3, "model.aspect_ratio": 16, "compile.mode": "static"}
    return tiny_config(folder, **(sizes | overrides))


@pytest.fixture
def faulty_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt, "norm", norm_of_unknown_shape)


NO_COMPILER = {"cpp.cxx": ("/nonexistent/g++",), "force_disable_caches": True}


@pytest.mark.usefixtures("dynamo_alone", "faulty_norm")
def test_a_failure_says_which_block_which_mode_the_root_cause_and_what_to_do(small_text: Path):
    with pytest.raises(CompileError) as caught:
        trained(_tiny(small_text))
    message = str(caught.value)
    assert message.startswith("on rank 0 torch.compile failed in layer 0 of 2 with compile.mode 'static': ")
    assert "no one has thought about shapes" in message
    assert "choose another compile.mode ('none' compiles nothing)" in message
    assert "with compile.fallback 'none'" in message
    assert "\n" not in message


@pytest.mark.usefixtures("faulty_norm")
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_with_the_fallback_a_run_goes_on_exactly_as_if_uncompiled_and_marks_every_row(
    small_text: Path, mode: str, capsys: pytest.CaptureFixture[str]
):
    plain, plain_facts = trained(_tiny(small_text, **{"compile.mode": "none"}))
    rows, facts = trained(_tiny(small_text, **{"compile.mode": mode, "compile.fallback": "none"}))
    assert [row.loss for row in rows] == [row.loss for row in plain]
    assert all("fallback" in row.flags for row in rows)
    assert not any("fallback" in row.flags for row in plain)
    assert facts[-1].compile_fallback is not None
    assert f"layer 0 of 2 with compile.mode '{mode}'" in facts[-1].compile_fallback
    assert plain_facts[-1].compile_fallback is None
    assert f"warning: {facts[-1].compile_fallback}; this run continues uncompiled\n" in capsys.readouterr().out


def test_a_missing_cpp_compiler_is_named(small_text: Path):
    with (
        inductor.patch(NO_COMPILER),
        pytest.raises(CompileError, match=r"in layer 0 of 2 .*: InvalidCxxCompiler: .*/nonexistent/g\+\+"),
    ):
        trained(_tiny(small_text))


@torch.library.custom_op("nanochat_test::no_step", mutates_args=())
def update_of_unknown_shape(x: Tensor) -> Tensor:
    """A step of nothing that runs, and that cannot be compiled."""
    return torch.zeros_like(x)


@update_of_unknown_shape.register_fake
def _(x: Tensor) -> Tensor:
    raise NotImplementedError("no one has thought about updates")


@pytest.mark.usefixtures("dynamo_alone")
def test_an_update_that_cannot_be_compiled_fails_at_the_start_or_falls_back_too(
    small_text: Path, monkeypatch: pytest.MonkeyPatch
):
    def apply(value: Tensor, *args: Any, **settings: Any) -> None:
        updates.muon_apply(value, *args, **settings)
        value.add_(update_of_unknown_shape(value))

    kernels = UpdateKernels(apply=torch.compile(apply, backend="eager", fullgraph=True))
    real_optimizer = setup.ShardedOptimizer

    def compiling_optimizer(*args: Any, **settings: Any) -> Any:
        return real_optimizer(*args, **settings | {"compile_updates": True})

    with monkeypatch.context() as as_on_a_gpu:
        as_on_a_gpu.setattr(UpdateKernels, "compiled", lambda *, by_half: kernels)
        as_on_a_gpu.setattr(setup, "ShardedOptimizer", compiling_optimizer)
        with pytest.raises(CompileError, match=r"failed in the optimizer's update .*no one has thought about updates"):
            trained(_tiny(small_text))
        rows, _ = trained(_tiny(small_text, **{"compile.fallback": "none"}))
    plain, _ = trained(_tiny(small_text, **{"compile.mode": "none"}))
    assert [row.loss for row in rows] == [row.loss for row in plain]
    assert all("fallback" in row.flags for row in rows)


def _world_of_two(ranks: Ranks, folder: str) -> tuple[str, list[float], list[float]]:
    """Rank 1 alone cannot compile. What the trainer says; the losses with the fallback, and without compiling."""
    nn.Module.compile = functools.partialmethod(nn.Module.compile, backend="eager")  # pyright: ignore
    gpt.norm = REAL_NORM if ranks.is_first else norm_of_unknown_shape
    said, fallen_back, plain = "", list[StepStats](), list[StepStats]()
    try:
        train(_tiny(folder), Hooks())
    except CompileError as error:
        said = str(error)
    train(_tiny(folder, **{"compile.fallback": "none"}), Hooks(on_step=fallen_back.append))
    train(_tiny(folder, **{"compile.mode": "none"}), Hooks(on_step=plain.append))
    return said, [row.loss for row in fallen_back], [row.loss for row in plain]


def test_where_one_rank_cannot_compile_all_fail_by_its_name_or_none_goes_on_compiled(
    run_world: Callable[..., list[Any]], small_text: Path
):
    (said, fallen_back, plain), (said_by_other, _, _) = run_world(_world_of_two, 2, str(small_text))
    assert said.startswith("on rank 1 torch.compile failed in layer 0 of 2 with compile.mode 'static': ")
    assert said_by_other == said
    assert len(plain) == 3
    assert fallen_back == plain


@pytest.mark.usefixtures("dynamo_alone")
def test_the_trial_before_the_first_step_leaves_no_trace(small_text: Path):
    """Dynamo alone runs the very kernels that an uncompiled run uses, so the numbers are equal bit for bit."""
    changes = {"moe.router_bias_rate": 0.001, "moe.capacity_factor": 1.0, "eval.every": 2, "eval.num_tokens": 128}
    compiled, facts = trained(_tiny(small_text, **changes))
    plain, _ = trained(_tiny(small_text, **changes, **{"compile.mode": "none"}))
    assert [(row.loss, row.bal, row.max_vio, row.val_bpb) for row in compiled] == [
        (row.loss, row.bal, row.max_vio, row.val_bpb) for row in plain
    ]
    assert facts[-1].compile_fallback is None


@pytest.mark.usefixtures("dynamo_alone")
def test_a_graph_that_only_the_evaluation_needs_fails_at_the_start_too(
    small_text: Path, monkeypatch: pytest.MonkeyPatch
):
    def norm_for_training_only(x: Tensor) -> Tensor:
        return REAL_NORM(x) if torch.is_grad_enabled() else norm_of_unknown_shape(x)

    monkeypatch.setattr(gpt, "norm", norm_for_training_only)
    rows, _ = trained(_tiny(small_text))
    assert len(rows) == 3
    with pytest.raises(CompileError, match="no one has thought about shapes"):
        trained(_tiny(small_text, **{"eval.every": 3, "eval.num_tokens": 128}))


def test_a_failure_in_the_backward_pass_is_told_as_that(small_text: Path):
    run = prepare(_tiny(small_text, **{"model.depth": 1, "model.aspect_ratio": 32}), Hooks())
    with inductor.patch({"force_disable_caches": True}):
        losses, _, _ = run.model(*run.feed.next())
    with inductor.patch(NO_COMPILER), pytest.raises(Exception, match="nonexistent") as caught:
        losses.mean().backward()
    run.feed.close()
    described = compile_failures.describe(caught.value, run.model, "static")
    assert described is not None
    assert described.startswith("torch.compile failed in the backward pass with compile.mode 'static': ")


def test_what_is_not_the_compilers_fault_is_not_put_down_to_it(small_text: Path):
    model = prepare(_tiny(small_text), Hooks()).model
    no_memory = torch.OutOfMemoryError("CUDA out of memory")
    for error in (ValueError("a bad batch"), no_memory, InductorError(no_memory, None), KeyError("x")):
        assert compile_failures.describe(error, model, "static") is None


def test_an_uncompiled_model_is_as_written_again(small_text: Path):
    model = prepare(_tiny(small_text), Hooks()).model
    parts = (*model.blocks, model.head)
    assert all(vars(part)["_compiled_call_impl"] is not None for part in parts)  # torch tells it nowhere else
    compiling.uncompile_model(model)
    assert all(vars(part)["_compiled_call_impl"] is None for part in parts)
