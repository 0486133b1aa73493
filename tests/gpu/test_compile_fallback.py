"""Where a GPU's kernels cannot be compiled, the run says so, or continues as an uncompiled one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nanochat.config import CompileMode, TrainConfig
from nanochat.loop.compile_failures import CompileError
from nanochat.loop.stepping import RecordedMicroStep
from nanochat.model import compiling, gpt
from tests.helpers.configs import FP8, card_config
from tests.helpers.gpu import keep_gpu_busy
from tests.helpers.runs import trained
from tests.helpers.unknown_operator import norm_of_unknown_shape

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("fresh_process")]
REAL_ROTATE, REAL_COMPILE = gpt.rotate, compiling.compile_model
# Blocks that call `gpt.rotate`, and a head whose gradient autograd adds: own kernels do both themselves.
BY_TORCH: dict[str, Any] = {"compile.kernels": "torch"}
SLEEP_CYCLES = 20_000_000_000  # about ten seconds: longer than the compiler takes to fail


@torch.library.custom_op("nanochat_gpu_test::same", mutates_args=())
def same(grad: Tensor) -> Tensor:
    """A gradient as it is."""
    return grad.clone()


@same.register_fake
def _(grad: Tensor) -> Tensor:
    return torch.empty_like(grad)


class _SameGradient(torch.autograd.Function):
    """Changes nothing; its backward cannot be compiled while the compiler is told to refuse `same`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return same(grad)


def _refuse(*_: Any) -> None:
    raise NotImplementedError("no one has thought about this gradient")


@pytest.fixture
def faulty_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt, "norm", norm_of_unknown_shape)


@pytest.fixture
def faulty_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the blocks; in the trial the head's gradient comes so late that the GPU still adds it after the failure."""
    from torch._inductor.lowering import lowerings

    is_over: list[bool] = []

    def delay(_: Tensor) -> None:
        if not is_over:
            keep_gpu_busy(SLEEP_CYCLES)
        is_over.append(True)

    def compile_model(model: gpt.GPT, mode: CompileMode) -> None:
        REAL_COMPILE(model, mode)
        if mode != "none":
            model.head.lm_head.weight.register_hook(delay)

    monkeypatch.setitem(lowerings, torch.ops.nanochat_gpu_test.same.default, _refuse)
    monkeypatch.setattr(gpt, "rotate", lambda *args: _SameGradient.apply(REAL_ROTATE(*args)))
    monkeypatch.setattr(compiling, "compile_model", compile_model)


def _losses(**overrides: Any) -> tuple[list[float], set[bool]]:
    """The losses, and whether rows are marked as fallen back."""
    rows, _ = trained(_config(**overrides))
    return [row.loss for row in rows], {"fallback" in row.flags for row in rows}


def _config(**overrides: Any) -> TrainConfig:
    """Two layers with FP8 everywhere."""
    sizes = {"model.depth": 2, "model.aspect_ratio": 64, "moe.capacity_factor": 1.0, "schedule.num_steps": 4}
    return card_config(**(FP8 | sizes | {"compile.mode": "static", "run.deterministic": True} | overrides))


@pytest.mark.usefixtures("faulty_forward")
def test_the_cause_is_told():
    with pytest.raises(CompileError, match=r"in layer 0 of 2 with compile.mode 'static': .*no one has thought"):
        _losses()


@pytest.mark.usefixtures("faulty_backward")
def test_a_failure_in_the_backward_pass_is_told_as_that():
    with pytest.raises(CompileError, match=r"in the backward pass with compile.mode 'static': .*about this gradient"):
        _losses(**BY_TORCH)


@pytest.mark.parametrize(("fault", "kernels"), [("faulty_forward", {}), ("faulty_backward", BY_TORCH)])
def test_a_run_that_fell_back_records_its_micro_steps_and_equals_an_uncompiled_one(
    fault: str, kernels: dict[str, Any], request: pytest.FixtureRequest
):
    request.getfixturevalue(fault)
    fallen_back, marked = _losses(**kernels, **{"compile.fallback": "none"})
    plain, unmarked = _losses(**kernels, **{"compile.mode": "none"})
    assert len(plain) == 4
    assert fallen_back == plain
    assert (marked, unmarked) == ({True}, {False})


def test_what_a_failed_micro_step_has_launched_is_done_before_what_is_launched_next(gpu: torch.device):
    gradient = torch.zeros(1024, device=gpu)

    class Failing:
        def micro_step(self, inputs: Tensor, targets: Tensor) -> None:
            keep_gpu_busy(1_000_000_000)
            gradient.add_(1)
            raise RuntimeError("after the launch")

    with pytest.raises(RuntimeError, match="after the launch"):
        RecordedMicroStep(Failing())(gradient, gradient)  # pyright: ignore[reportArgumentType]
    gradient.zero_()
    torch.cuda.synchronize()
    assert not gradient.any()
