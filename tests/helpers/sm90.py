"""Compiles every kernel written here for Hopper, without a GPU: `python -m tests.helpers.sm90` prints one JSON line.

Not in a process where Triton interprets (TRITON_INTERPRET). Sizes are those of the recipe `d12_moe`.
"""

import json
import os
import subprocess
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as backend_file
from triton.compiler import ASTSource

from nanochat.kernels import triton_kernels, triton_updates

HOPPER = GPUTarget("cuda", 90, 32)
BF16, F32, F8, I32, I64 = "*bf16", "*fp32", "*fp8e4nv", "*i32", "*i64"
ROTARY = {"H": 12, "HALF": 32, "HEADS": 32}

# Kernel, types of its arguments that are no constants, constants, warps. "i" and "f" are numbers.
CASES: list[tuple[str, list[str], dict[str, Any], int]] = [
    (
        "capped_loss_kernel",
        [BF16, I64, F32, "i", "i", "i", "f"],
        {"WRITE_GRAD": True, "APPROXIMATE": True, "BLOCK": 2048},
        4,
    ),
    ("extremes_kernel", [BF16, F32, "i", "i"], {"ROWS": 4, "BLOCK": 1024}, 4),
    ("copies_kernel", [BF16, F8, F8, F32, *"iiii"], {"HAS_TRANSPOSED": True, "BLOCK_M": 64, "BLOCK_K": 64}, 4),
    ("rotate_and_norm_kernel", [BF16, BF16, BF16, BF16, BF16, F32, "i", "i", "f"], ROTARY, 4),
    (
        "rotate_and_norm_backward_kernel",
        [*[BF16] * 5, F32, BF16, BF16, BF16, F8, F32, "i"],
        {**ROTARY, "BLOCK_V": 1024, "IN_FP8": True},
        4,
    ),
    (
        "combine_backward_kernel",
        [BF16, BF16, F32, I64, BF16, F8, F32, F32, "i", "i"],
        {"BLOCK": 1024, "IN_FP8": True},
        2,
    ),
    ("add_runs_kernel", [BF16, BF16, I32, I64, F32, "i", "i"], {"CHUNK": 32, "COLUMNS": 128, "PRECISION": "tf32"}, 4),
    ("add_long_runs_kernel", [BF16, I32, F32, "i", "i"], {"CHUNK": 32, "COLUMNS": 128}, 4),
    ("gather_sum_kernel", [BF16, I64, F32, BF16, "i", "i"], {"K": 2, "HAS_WEIGHTS": True, "BLOCK": 1024}, 4),
    (
        "mix_and_norm_kernel",
        [BF16, BF16, F32, BF16, BF16, F32, "i", "f"],
        {"HAS_SCALES": True, "BLOCK": 1024},
        4,
    ),
    (
        "mix_and_norm_backward_kernel",
        [BF16, BF16, BF16, F32, BF16, BF16, F32, BF16, BF16, F32, "i"],
        {"HAS_SCALES": True, "BLOCK": 1024},
        4,
    ),
    ("extents_kernel", [BF16, F32, F32, "i"], {"BLOCK": 4096, "LOOPS": 4}, 8),
    ("adamw_kernel", [F32, BF16, BF16, F32, F32, F32, "i", "f"], {"SENDS": True, "BLOCK": 2048}, 8),
    ("momentum_kernel", [BF16, F32, F32, F32, F32, "i"], {"BLOCK": 4096}, 8),
    ("direction_kernel", [BF16, F32, BF16, F32, F32, F32, "i"], {"BLOCK": 4096}, 8),
    ("row_energy_kernel", [BF16, F32, "i", "i"], {"ROWS": 4, "BLOCK": 1024}, 4),
    ("column_energy_kernel", [BF16, F32, "i", "i"], {"ROWS": 32, "COLUMNS": 64}, 4),
    ("neuron_factors_kernel", [F32, F32, F32, F32, "i", "f"], {"BLOCK": 2048}, 4),
    (
        "muon_kernel",
        [F32, BF16, BF16, F32, F32, F32, "i", "i"],
        {"C": 768, "BY_ROW": True, "SENDS": True, "BLOCK": 4096},
        8,
    ),
]


def kernels() -> dict[str, Any]:
    """Every kernel that is launched, by name."""
    found: dict[str, Any] = {}
    for module in (triton_kernels, triton_updates):
        names = [name for name in vars(module) if name.endswith("_kernel")]
        found |= {name: getattr(module, name) for name in names}
    return found


def resources(name: str, types: list[str], constants: dict[str, Any], warps: int) -> dict[str, int]:
    """What one kernel takes: registers, bytes of its stack, which spills go to, and of shared memory."""
    kernel = kernels()[name]
    variable = [n for n in kernel.arg_names if n not in constants]
    assert len(variable) == len(types), f"{name} takes {variable}"
    signature = {n: {"i": "i32", "f": "fp32"}.get(t, t) for n, t in zip(variable, types, strict=True)}
    source = ASTSource(
        fn=kernel,
        signature={n: signature.get(n, "constexpr") for n in kernel.arg_names},
        constexprs=constants,
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, n in enumerate(kernel.arg_names)
            if n not in constants and signature[n] != "fp32"
        },
    )
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        tool = os.path.join(os.path.dirname(backend_file), "bin", "cuobjdump")
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    usage = next(line for line in said.splitlines() if "REG:" in line)
    numbers = dict(part.split(":")[:2] for part in usage.split())
    return {"registers": int(numbers["REG"]), "stack": int(numbers["STACK"]), "shared": compiled.metadata.shared}


def main() -> None:
    """Prints what each kernel takes, and the names of those without a case."""
    taken = {case[0]: resources(*case) for case in CASES}
    print(json.dumps({"taken": taken, "without_case": sorted(kernels().keys() - taken.keys())}))


if __name__ == "__main__":
    main()
