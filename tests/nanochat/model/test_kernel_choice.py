"""Without a Hopper GPU, or when told so, a model runs on torch's own kernels; QuACK makes FP8 in one recipe."""

import pytest
import torch

from nanochat.config import LinearsPrecision, PrecisionConfig, TrainConfig, with_overrides
from nanochat.machine import kernel_libraries
from nanochat.model.fp8 import QuackLinears
from nanochat.model.gpt import GPT
from nanochat.model.kernel_choice import PLAIN, Kernels, choose_kernels, missing_kernels

QUACK = Kernels(products="quack", own=True)
CPU = torch.device("cpu")


def test_a_cpu_gets_torchs_own_kernels_and_no_advice() -> None:
    assert choose_kernels("auto", CPU, (768,)) == choose_kernels("torch", CPU, (768,)) == PLAIN
    assert missing_kernels("auto", CPU) == []


def test_on_hopper_the_faster_kernels_serve_unless_torchs_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_libraries, "is_hopper", lambda device: True)
    monkeypatch.setattr(kernel_libraries, "unusable", lambda library, device: None)
    gpu = torch.device("cuda")
    assert choose_kernels("auto", gpu, (768, 1536)) == QUACK
    assert choose_kernels("torch", gpu, (768, 1536)) == PLAIN
    assert choose_kernels("auto", gpu, (768, 1000)).products == "torch", (
        "rows of 1,000 values do not start at 16 bytes in FP8"
    )
    monkeypatch.setattr(kernel_libraries, "unusable", lambda library, device: "not installed")
    assert choose_kernels("auto", gpu, (768,)) == Kernels(products="torch", own=True)
    assert missing_kernels("auto", gpu) == ["kernels: torch's own in place of faster ones: not installed"]
    assert missing_kernels("torch", gpu) == []


def test_a_scale_per_row_stays_with_torch() -> None:
    assert QUACK.makes_fp8(PrecisionConfig(linears="fp8", recipe="tensorwise"))
    assert not QUACK.makes_fp8(PrecisionConfig(linears="fp8", recipe="rowwise"))
    assert not PLAIN.makes_fp8(PrecisionConfig(linears="fp8"))


@pytest.mark.parametrize(
    ("linears", "parts"),
    [("bf16", set[str]()), ("fp8", {"qkv", "out", "head"}), ("fp8_qkv", {"qkv"}), ("fp8_head", {"head"})],
)
def test_fp8_linears_by_quack_are_those_of_the_roles(linears: LinearsPrecision, parts: set[str]) -> None:
    config = with_overrides(TrainConfig(), {"model.depth": 2, "precision.linears": linears})
    with torch.device("meta"):
        model = GPT(config, "sdpa", QUACK)
    attention = model.get_submodule("blocks.0.attention")
    found = {"qkv": attention.qkv_fp8, "out": attention.out_fp8, "head": model.head.head_fp8}
    assert {part for part, linear in found.items() if isinstance(linear, QuackLinears)} == parts
